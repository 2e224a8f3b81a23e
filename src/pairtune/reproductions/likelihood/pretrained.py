"""Bases made here, by the zoo's own pretraining: from random weights, on chosen text, for a chosen time."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from pairtune.errors import PairtuneError
from pairtune.pair import hub
from pairtune.pair.complete import is_complete
from pairtune.pair.disk import write_json
from pairtune.pair.staging import staged_folder
from pairtune.zoo import path as zoo_path

TOKENIZER = "tiny-lm"  # of the zoo: every base here reads the same tokens


def write_corpus(folder: Path, texts: Iterable[str]) -> None:
    """Texts as the pretraining script reads them: one file of tokens, each text between start and end token."""
    tokenizer = hub.load_tokenizer(zoo_path(TOKENIZER))
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    everything = np.concatenate([np.array([start, *ids, end], np.uint16) for ids in encoded])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with staged_folder(folder) as staging:
        everything.tofile(staging / "train.bin")
        about = {"vocabulary": len(tokenizer), "tokens": len(everything), "checksum": zlib.crc32(everything.tobytes())}
        write_json(staging / "manifest.json", about)


def pretrain(corpus: Path, run: Path, out: Path, tokens: int, shape: Sequence[str] = ()) -> Path:
    """Train as `train` says, and write the base to `out`."""
    if not is_complete(out):
        export(train(corpus, run, tokens, shape), out)
    return out


def random_base(source: str, out: Path, seed: int = 0) -> Path:
    """A base of the same architecture and tokenizer with random weights."""
    from transformers import AutoModelForCausalLM

    if not is_complete(out):
        torch.manual_seed(seed)
        place = zoo_path(source.removeprefix("zoo:")) if source.startswith("zoo:") else hub.local_folder(source)
        _write(AutoModelForCausalLM.from_config(hub.load_config(place), dtype=torch.float32), place, out)
    return out


def train(corpus: Path, run: Path, tokens: int, shape: Sequence[str]) -> Path:
    """Train until `tokens` have been read, going on from what `run` holds; the newest checkpoint.

    The rate rises and stays, so that a run can be lengthened. `shape`: further flags of the zoo's pretraining.
    """
    from pairtune.zoo import lm_checkpoint

    command = [sys.executable, "-m", "pairtune.zoo.pretrain_lm", "--corpus", str(corpus), "--out", str(run)]
    command += ["--total-tokens", str(tokens), "--decay-tokens", "0", "--warmup-tokens", "40000"]
    command += ["--tokens-per-step", "2048", "--context", "128", "--threads", str(torch.get_num_threads()), *shape]
    # Its progress is a log, not a result.
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise PairtuneError(f"pretraining failed; its last lines are above ({' '.join(command)})")
    folder = lm_checkpoint.latest(run)
    if folder is None:
        raise PairtuneError(f"{run}: pretraining left no checkpoint")
    return folder


def export(folder: Path, out: Path) -> None:
    """A checkpoint of the zoo's pretraining as a model folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from pairtune.zoo import lm_checkpoint

    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in state["config"].items() if not k.startswith("_")}))
    lm_checkpoint.load_weights(folder, model)
    _write(model, zoo_path(TOKENIZER), out)


def _write(model, tokenizer: Path, out: Path) -> None:
    """A model folder with the tokenizer of another; whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with staged_folder(out) as staging:
        model.save_pretrained(staging)
        hub.load_tokenizer(tokenizer).save_pretrained(staging)
