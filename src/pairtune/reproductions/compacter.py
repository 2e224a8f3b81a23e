"""Adapters of shared Kronecker products against plain ones, plain low-rank ones, and norms alone, with few labels.

Paper: "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers", arXiv 2106.04647.

Setting, cut to two cores: one encoder of 22 M parameters and 6 blocks (`zoo:minilm`) in place of T5-base, with a new
head; sentiment of film-review sentences (SST-2) with 100 and 300 training sentences in place of GLUE. A seed sets head,
adapters, order and dropout; the sentences stay. All arms of a size take the same steps; each arm's learning rate is the
best of three on validation with seed 0 and 300 sentences, for tuning all weights of three smaller ones. Nothing is
chosen on the test split; the state after the last step is what counts.

All bottlenecks are 24 wide, behind both halves of a block, and norms and head train in every arm but BitFit, which has
the biases and the head. "Low rank" is the same file with n = 1: W = a s t, as many numbers a projection as with n = 4,
so that what is left between them is the sum of products and the rank that it reaches. "Full factors" has rank 6, which
does not restrict the B_i. "Norms" trains nothing but norms and head. "As good" is judged with a margin of two points: a
test of 400 rows has no power for the one point of the paper's note. Trainable numbers, with and without norms and
head, stand under "choices".

The data folder (`movie_sentiment`) is named by PAIRTUNE_DATA or by `--set data=FOLDER`.
"""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy as np

from pairtune.data.task import Task
from pairtune.pair.pair import Pair
from pairtune.reproductions.encoders.arms import count_trainable, right
from pairtune.reproductions.frame import Part, Reproduction, Results
from pairtune.reproductions.sources import rows_of, write_task
from pairtune.training.run import tune

log = logging.getLogger("pairtune")
FULL, HOULSBY, COMPACTER, PLUS = "all weights", "adapter", "Compacter", "Compacter++"
LOW_RANK, FULL_FACTORS, NORMS, BITFIT = "low rank", "full factors", "norms", "BitFit"
SHAPE = {"name": "compacter", "reduction": 16}
ARMS: dict[str, Any] = {
    FULL: "full",
    HOULSBY: {"name": "adapter", "reduction": 16, "where": "both"},
    COMPACTER: SHAPE,
    PLUS: SHAPE | {"where": "ffn"},
    LOW_RANK: SHAPE | {"n": 1},
    FULL_FACTORS: SHAPE | {"rank": 6},
    NORMS: {"name": "peft", "type": "ln_tuning", "target_modules": ["LayerNorm"]},
    BITFIT: "bitfit",
}
SIZES = (300, 100)  # the first is the one on which rates are chosen
OPTIONS: dict[str, Any] = {"kind": "classification", "text": "text", "label": "label", "name": "sentences"}


def arm_of(arm: str, size: int) -> str:
    """The name under which an arm's outcomes with so many labels are kept."""
    return f"{arm}, {size} labels"


def run(results: Results, settings: dict[str, Any]) -> None:
    """Fill in what is missing, size by size."""
    for size in SIZES:
        task = _task(results, size, settings)
        for arm in ARMS:
            rate = _rate(results, arm, settings)
            for seed in range(settings["seeds"]):
                if results.missing(arm_of(arm, size), seed):
                    pair = _tuned(results, arm, size, rate, seed, settings)
                    right = _right(pair, task, "test", settings)
                    count_trainable(results, arm, pair)
                    results.add(arm_of(arm, size), seed, {"test": right})
                    log.info("%s, seed %d: %.4f", arm_of(arm, size), seed, right.mean())
    results.note("note's rule", notes_rule(results))


def notes_rule(results: Results) -> dict[str, Any]:
    """What would falsify the claim by the paper's note, and the spreads over seeds, read off the outcomes."""

    def mean(arm: str, size: int) -> float:
        return float(results.table(arm_of(arm, size), ("test",)).mean())

    def spread(arm: str, size: int) -> float:
        means = results.table(arm_of(arm, size), ("test",)).mean(1)
        return round(float(means.std(ddof=1)), 4) if len(means) > 1 else 0.0

    return {
        "falsified: low rank at least as good everywhere": all(mean(LOW_RANK, s) >= mean(COMPACTER, s) for s in SIZES),
        "falsified: norms alone at least as good everywhere": all(mean(NORMS, s) >= mean(COMPACTER, s) for s in SIZES),
        "spread over seeds, Compacter": {size: spread(COMPACTER, size) for size in SIZES},
        "spread over seeds, all weights": {size: spread(FULL, size) for size in SIZES},
    }


def _rate(results: Results, arm: str, settings: dict[str, Any]) -> float:
    task = _task(results, SIZES[0], settings)

    def trial(rate: float) -> float:
        return float(_right(_tuned(results, arm, SIZES[0], rate, 0, settings), task, "validation", settings).mean())

    return results.choose(arm, settings["full rates" if arm == FULL else "rates"], trial)


def _tuned(results: Results, arm: str, size: int, rate: float, seed: int, settings: dict[str, Any]) -> Pair:
    """One run; nothing of it stays on disk."""
    steps = settings["steps"][str(size)]
    return tune(
        {
            "base": settings["base"],
            "data": {"source": str(results.folder / str(size)), **OPTIONS},
            "tuner": ARMS[arm],
            "seed": seed,
            "training": {
                "lr": rate, "max_steps": steps, "eval_every": steps, "batch_size": settings["batch"], "warmup": 0.1,
                "max_length": settings["max_length"], "precision": settings["precision"], "keep": 1,
            },
        }
    )  # fmt: skip


def _right(pair: Pair, task: Task, split: str, settings: dict[str, Any]) -> np.ndarray:
    return right(pair, task, split, settings["precision"], settings["max_length"])


def _task(results: Results, size: int, settings: dict[str, Any]) -> Task:
    """So many training sentences; the same validation and test rows for every size, the smaller set in the larger."""
    folder = results.folder / str(size)
    if not folder.is_dir():
        splits = {}
        sizes = {"train": size, "validation": settings["validation"], "test": settings["test"]}
        for (split, count), source in zip(sizes.items(), ("train", "dev", "test"), strict=True):
            rows = [
                {"text": r["text"], "label": r["label"]} for r in rows_of(settings, "movie_sentiment", f"sst2_{source}")
            ]
            random.Random(0).shuffle(rows)
            splits[split] = rows[:count]
        write_task(folder, splits)
    return Task.load(folder, **OPTIONS)


def _part(name: str, method: str, baseline: str, size: int, counts: bool = True, margin: float = 0.0) -> Part:
    names = arm_of(method, size), arm_of(baseline, size)
    return Part(
        f"{name}, {size} labels", *names, ("test",), worth=0.0 if margin else 0.01, counts=counts, margin=margin
    )


REPRODUCTION = Reproduction(
    slug="compacter",
    paper="Compacter: Efficient Low-Rank Hypercomplex Adapter Layers (arXiv 2106.04647)",
    claim="Adapters of Kronecker products with a shared factor are as good as plain ones with many times the numbers, "
    "better than low-rank ones with as many, and with few labels at least as good as tuning all weights.",
    module="tuners/compacter",
    verb="tune --tuner compacter",
    parts=(
        _part("as good as plain adapters", COMPACTER, HOULSBY, 300, margin=0.02),
        _part("products beat low rank", COMPACTER, LOW_RANK, 300),
        _part("more than its norms", COMPACTER, NORMS, 300),
        _part("as good as all weights", COMPACTER, FULL, 100, margin=0.02),
        # Published beside the claim.
        _part("as good as plain adapters", COMPACTER, HOULSBY, 100, counts=False, margin=0.02),
        _part("products beat low rank", COMPACTER, LOW_RANK, 100, counts=False),
        _part("more than its norms", COMPACTER, NORMS, 100, counts=False),
        _part("as good as all weights", COMPACTER, FULL, 300, counts=False, margin=0.02),
        _part("restricting the factors costs nothing", COMPACTER, FULL_FACTORS, 300, counts=False, margin=0.02),
        _part("one half a block is enough", PLUS, COMPACTER, 300, counts=False, margin=0.02),
        _part("against biases", COMPACTER, BITFIT, 300, counts=False),
    ),
    run=run,
    settings={
        "base": "zoo:minilm",
        "data": None,
        "seeds": 5,
        "steps": {"300": 114, "100": 65},
        "batch": 8,
        "rates": [1e-3, 3e-3, 1e-2],
        "full rates": [3e-5, 1e-4, 3e-4],
        "validation": 200,
        "test": 400,
        "max_length": 40,
        "precision": "bf16",
    },
)
