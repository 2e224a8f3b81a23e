"""Detectors' throughput beside one forward pass, and the memory of scoring a long file; one JSON line at the end.

Each detector scores the same texts on zoo:tiny-lm with a changed upper half; one pass of the variant's blocks, without
a head, is the floor of them all, and two passes with the head what a log ratio costs at most. Then 10^5 lines of 4 to
12 words are scored through the verb's own path (records into a file): resident memory after the first chunk and at the
end, and the rate. Goals: a detector on features costs at most 1.2 passes; memory grows by less than 50 MB. The bound is
2 N T / F: a pass over T tokens of an N-parameter model at F FLOP/s.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil
import torch
from torch import nn

from _harness import finish, interleave, matrix_flops
from pairtune.data.split import Split
from pairtune.data.task import Task
from pairtune.ood import evidence
from pairtune.ood.files import write_scored
from pairtune.ood.inputs import Input
from pairtune.ood.scoring import Scorer
from pairtune.pair.base import Base
from pairtune.pair.installed import SwappedParameters
from pairtune.pair.pair import Layer, Pair

NAMES = ("log-ratio:sum", "likelihood:sum", "length", "mahalanobis", "relative-mahalanobis", "knn", "msp")
LABELS = ["printer", "network", "account", "phone"]


def make_pair() -> Pair:
    """zoo:tiny-lm with its upper blocks changed."""
    base = Base.load("zoo:tiny-lm")
    upper = tuple(name + "." for name, _ in base.blocks[len(base.blocks) // 2 :])
    torch.manual_seed(0)
    variants = {
        name: nn.Parameter(p + 0.02 * torch.randn_like(p), requires_grad=False)
        for name, p in base.parameters.items()
        if name.startswith(upper) and p.ndim == 2
    }
    return Pair(base, [Layer(SwappedParameters(base.model, variants), lambda: None)])  # type: ignore[arg-type,return-value]


def make_texts(count: int, seed: int = 0, longest: int = 40) -> list[str]:
    """Texts of 4 to `longest` words."""
    words = "the printer does not answer my account is closed since monday please help with new phone and mail".split()
    generator = random.Random(seed)
    return [" ".join(generator.choices(words, k=generator.randint(4, longest))) for _ in range(count)]


@torch.inference_mode()
def one_pass(scorer: Scorer, texts: list[str]) -> None:
    """The variant's blocks once over every text, in the batches that the scorer makes."""
    for start in range(0, len(texts), 512):
        rows = scorer.batcher.rows([Input.of(text) for text in texts[start : start + 512]])
        rows.sort(key=lambda row: row.longest)
        for at in range(0, len(rows), 128):
            evidence.pooled(scorer.pair, scorer.batcher.batch(rows[at : at + 128]), -1, "mean")


def long_file(scorer: Scorer, lines: int) -> dict[str, float]:
    """Score a file of many lines; resident MB after the first chunk and at the end, lines a CPU second."""
    process, sizes = psutil.Process(), []
    seen = [0]

    def watch(count: int) -> None:
        seen[0] += count
        if count and seen[0] % 2048 == 0:
            sizes.append(process.memory_info().rss / 1e6)

    def records(chunk):
        for text, found in zip(chunk, scorer.stream(chunk), strict=True):
            yield {"text": text, **found.scores}

    # Made as they are read, so that the list itself is no part of the memory.
    texts = (text for seed in range(-(-lines // 1000)) for text in make_texts(min(1000, lines), seed, 12))
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        write_scored(Path(folder) / "scores.jsonl", texts, records, {}, progress=watch)
        seconds = time.process_time() - start
    return {
        "lines": lines,
        "resident MB after the first chunk": round(sizes[0]),
        "resident MB at the end": round(sizes[-1]),
        "largest resident MB": round(max(sizes)),
        "lines a CPU second": round(lines / seconds),
    }


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=500, help="texts that every detector scores")
    parser.add_argument("--lines", type=int, default=100_000, help="lines of the long file")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    pair, texts = make_pair(), make_texts(arguments.texts)
    rows = [{"text": text, "label": LABELS[i % 4]} for i, text in enumerate(make_texts(400, seed=1))]
    task = Task("benchmark", "classification", ("text",), "label", LABELS, {"train": Split.of(rows)})
    scorers = {name: Scorer(pair, [name], task=task).fit(task) for name in NAMES}
    contenders = {"one pass of the blocks": partial(one_pass, scorers["length"], texts)}
    contenders |= {name: partial(scorer.table, texts) for name, scorer in scorers.items()}
    timings = interleave(contenders, arguments.repeats)
    floor = timings["one pass of the blocks"].median
    figures: dict = {f"{name}: passes": round(timings[name].median / floor, 2) for name in NAMES}
    figures |= {f"{name}: texts a CPU second": round(len(texts) / timings[name].median) for name in NAMES}
    tokens = sum(len(ids) for ids in pair.tokenizer(texts)["input_ids"])
    count = sum(p.numel() for n, p in pair.base.parameters.items() if "embed" not in n)
    figures["share of the bound, one pass"] = round(2 * count * tokens / matrix_flops() / floor, 2)
    if arguments.lines:
        figures["a long file"] = long_file(scorers["log-ratio:sum"], arguments.lines)
    finish("ood_throughput", json.loads(json.dumps(figures)), timings)


if __name__ == "__main__":
    main()
