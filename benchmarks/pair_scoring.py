"""Scoring texts with the pair against two plain passes, both length-bucketed; one JSON line at the end.

The plain way scores every text under the base and then under the tuned model, taking the full logits. The pair runs the
blocks below the delta once and the head over slices of positions. The third contender is lm-eval's
`loglikelihood_rolling` on each of the two models (extra [peers]; left out where it is not installed), with the texts
sorted by length, since it takes them in the order given. Two settings: lengths 16-256 with the delta in the
upper half of the blocks (goal: 1.8 times as fast), and short texts of 4-16 tokens (goal: never slower). Scores must
agree to 1e-3 a text. The bound is 4 N T / F: two passes over T tokens of an N-parameter model at F FLOP/s.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import logging
import os
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from _harness import finish, interleave, matrix_flops, ratio
from pairtune.pair.base import Base
from pairtune.pair.installed import SwappedParameters
from pairtune.pair.pair import Layer, Pair
from pairtune.zoo import path as zoo_path

TOKENS_A_BATCH = 512  # what is fastest here for the plain way as well


def make_pair(folder: Path, blocks: int = 12, vocabulary: int = 8192) -> Pair:
    """A random Llama whose upper half of the blocks is changed."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=blocks,
        num_attention_heads=6,
        num_key_value_heads=6,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in zoo_path("tiny-lm").glob("*token*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    base = Base.load(folder)
    upper = tuple(name + "." for name, _ in base.blocks[blocks // 2 :])
    variants = {
        name: nn.Parameter(p + 0.02 * torch.randn_like(p), requires_grad=False)
        for name, p in base.parameters.items()
        if name.startswith(upper) and p.ndim == 2
    }
    return Pair(base, [Layer(SwappedParameters(base.model, variants), lambda: None)])  # type: ignore[arg-type,return-value]


def make_texts(tokenizer: Any, count: int, shortest: int, longest: int) -> list[str]:
    """Texts of random words, of about one token a word, the first, special one not counted; sorted by their tokens."""
    generator = random.Random(0)
    words = [word[1:] for word in tokenizer.get_vocab() if word.startswith("Ġ") and word[1:].isalpha()]
    lengths = [generator.randint(shortest, longest) for _ in range(count)]
    texts = [" " + " ".join(generator.choices(words, k=length)) for length in lengths]
    return sorted(texts, key=lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]))


def make_batches(tokenizer: Any, texts: list[str]) -> list[dict[str, torch.Tensor]]:
    """Length-bucketed batches under a token budget; each text stands behind the special token that begins a text."""
    rows = [[first_token(tokenizer), *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
    count, lengths = len(rows), [len(row) for row in rows]
    batches, start = [], 0
    while start < count:
        end = start + 1
        while end < count and (end + 1 - start) * lengths[end] <= TOKENS_A_BATCH:
            end += 1
        mask = (torch.arange(lengths[end - 1])[None, :] < torch.tensor(lengths[start:end])[:, None]).long()
        ids = [row + [0] * (lengths[end - 1] - len(row)) for row in rows[start:end]]
        batches.append({"input_ids": torch.tensor(ids), "attention_mask": mask})
        start = end
    return batches


def first_token(tokenizer: Any) -> int:
    """The token behind which a text stands."""
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id


class Harness:
    """lm-eval on the base, then on the tuned model: its public call on texts."""

    def __init__(self, pair: Pair, tokenizer: Any, texts: list[str]):
        models: Any = importlib.import_module("lm_eval.models.huggingface")
        instances: Any = importlib.import_module("lm_eval.api.instance")
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self.pair = pair
        self.model = models.HFLM(
            pretrained=pair.model, tokenizer=tokenizer, batch_size=16, add_bos_token=False, max_length=512,
            prefix_token_id=first_token(tokenizer),
        )  # fmt: skip
        self.requests = [instances.Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]

    def __call__(self) -> torch.Tensor:
        """The ratio by text, base − tuned."""
        with open(os.devnull, "w") as quiet, contextlib.redirect_stderr(quiet):
            with self.pair.off():
                base = self.model.loglikelihood_rolling(self.requests, disable_tqdm=True)
            tuned = self.model.loglikelihood_rolling(self.requests, disable_tqdm=True)
        return torch.tensor(base) - torch.tensor(tuned)


@torch.inference_mode()
def plain(pair: Pair, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Two passes as people write them: full logits, log-softmax, gather, mask."""
    sides = []
    for side in (pair.off, None):
        scores = []
        for batch in batches:
            if side is not None:
                with side():
                    logits = pair.model(**batch, use_cache=False).logits
            else:
                logits = pair.model(**batch, use_cache=False).logits
            chosen = logits[:, :-1].float().log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
            scores.append((chosen * batch["attention_mask"][:, 1:]).sum(-1))
        sides.append(torch.cat(scores))
    return sides[0] - sides[1]


def paired(pair: Pair, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """The pair's own log ratio, as a detector's score."""
    return torch.cat([-pair.log_ratio(batch).sum() for batch in batches])


def main() -> None:
    """Measure both settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=200, help="texts of 16-256 tokens; three times as many short ones")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pair = make_pair(Path(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        settings = {
            "lengths 16-256": make_texts(tokenizer, arguments.texts, 16, 256),
            "lengths 4-16": make_texts(tokenizer, 3 * arguments.texts, 4, 16),
        }
        figures, timings = {}, {}
        for name, texts in settings.items():
            batches = make_batches(tokenizer, texts)
            worst = float((plain(pair, batches) - paired(pair, batches)).abs().max())
            assert worst < 1e-3, f"{name}: scores differ by {worst}"
            contenders: dict[str, Callable[[], object]] = {
                f"two plain passes, {name}": partial(plain, pair, batches),
                f"pair, {name}": partial(paired, pair, batches),
            }
            if importlib.util.find_spec("lm_eval"):
                harness = Harness(pair, tokenizer, texts)
                contenders[f"lm-eval, {name}"] = harness
                worst = max(worst, float((harness() - paired(pair, batches)).abs().max()))
                assert worst < 1e-3, f"{name}: lm-eval's scores differ by {worst}"
            tokens = sum(int(b["attention_mask"].sum()) for b in batches)
            found = interleave(contenders, arguments.repeats)
            slow, fast, *peers = found.values()
            count = sum(p.numel() for p in pair.base.parameters.values())
            figures[f"speed-up, {name} (median, low, high)"] = [round(x, 2) for x in ratio(slow, fast)]
            for peer in peers:
                figures[f"speed-up over lm-eval, {name}"] = [round(x, 2) for x in ratio(peer, fast)]
            figures[f"tokens a second, {name}"] = {label: round(tokens / one.median) for label, one in found.items()}
            figures[f"largest difference of a score, {name}"] = worst
            figures[f"share of the two-pass bound, {name}"] = round(
                4 * count * tokens / matrix_flops() / fast.median, 2
            )
            timings |= found
        finish("pair_scoring", figures, timings)


if __name__ == "__main__":
    main()
