"""Turn a checkpoint into a model folder: `python -m pairtune.zoo.export_lm --corpus DIR --run DIR --out DIR`.

Writes bfloat16 weights, the tokenizer and a model card with the held-out losses of exactly these weights, beside the
old folder, and renames: whoever loads the model sees the old one or the new one.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from pairtune.zoo import lm_checkpoint
from pairtune.zoo.exported import replacing
from pairtune.zoo.lm_card import card


@torch.inference_mode()
def stream_loss(model: PreTrainedModel, tokens: np.ndarray, length: int, most: int = 60_000) -> tuple[float, int]:
    """Summed loss in nats over a token stream in windows without overlap, and how many tokens were predicted."""
    total, count = 0.0, 0
    for start in range(0, min(len(tokens), most) - 1, length):
        window = torch.from_numpy(tokens[start : start + length + 1].astype(np.int64))[None]
        if window.shape[1] < 2:
            break
        logits = model(window[:, :-1]).logits[0].float()
        total += F.cross_entropy(logits, window[0, 1:], reduction="sum").item()
        count += window.shape[1] - 1
    return total, count


def heldout_losses(model: PreTrainedModel, corpus: Path, manifest: dict) -> dict[str, dict[str, float]]:
    """Loss a token and bits a byte on the held-out documents of every source."""
    rows = {}
    for name, about in manifest["sources"].items():
        tokens = np.fromfile(corpus / f"heldout-{name}.bin", np.uint16)
        if len(tokens) < 100:  # too few to say anything
            continue
        total, count = stream_loss(model, tokens, model.config.max_position_embeddings)
        size = about["heldout_bytes"] * count / len(tokens)
        rows[name] = {"tokens": count, "loss": total / count, "bits_per_byte": total / math.log(2) / size}
    return rows


def write_tokenizer(source: Path, out: Path, context: int) -> None:
    """The tokenizer under the class name that every version of transformers knows."""
    shutil.copy(source / "tokenizer.json", out)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def export(corpus: Path, run: Path, out: Path, commands: str, when: str, hardware: str) -> dict:
    """Write the model folder from the newest checkpoint and return the held-out losses."""
    folder = lm_checkpoint.latest(run)
    if folder is None:
        raise SystemExit(f"no checkpoint in {run}")
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    manifest = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))
    config = LlamaConfig(**{k: v for k, v in state["config"].items() if not k.startswith("_")})
    model = LlamaForCausalLM(config)
    lm_checkpoint.load_weights(folder, model)
    model.bfloat16()
    with replacing(out) as part:
        # sampling is the default because greedy decoding of a model this small repeats itself
        model.generation_config = GenerationConfig(
            bos_token_id=0, eos_token_id=1, pad_token_id=2, do_sample=True, top_k=40, temperature=0.8
        )
        model.save_pretrained(part)
        write_tokenizer(corpus / "tokenizer", part, config.max_position_embeddings)
        losses = heldout_losses(model.float().eval(), corpus, manifest)
        parameters = sum(p.numel() for p in model.parameters())
        text = card(manifest, state, losses, parameters, commands, when, hardware)
        (part / "README.md").write_text(text, encoding="utf-8")
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("corpus", "run", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--commands", type=Path, help="text file with the commands of the run, for the card")
    parser.add_argument("--date", default="", help="for the card")
    parser.add_argument("--hardware", default="", help="for the card")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    commands = args.commands.read_text(encoding="utf-8") if args.commands else ""
    for name, row in export(args.corpus, args.run, args.out, commands, args.date, args.hardware).items():
        print(f"{name:16} {row['tokens']:>7} tokens  loss {row['loss']:.3f}  {row['bits_per_byte']:.3f} bits/byte")


if __name__ == "__main__":
    main()
