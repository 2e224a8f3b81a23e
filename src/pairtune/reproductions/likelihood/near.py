"""First experiment: near OOD, other intents in the same style.

CLINC150 against its out-of-scope requests, and BANKING77 with a quarter of its intents held out of everything. Cut:
2,000 of 15,000 and of about 7,500 training texts, 3 passes, at most 600 test texts a side; one tiny base; all weights
rather than a LoRA; a learning rate chosen on validation, a batch of 32 instead of 256. SNIPS and ROSTD are not at hand.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pairtune.data.task import Task
from pairtune.errors import InputError
from pairtune.ood.scoring import Scorer
from pairtune.pair.base import Base
from pairtune.pair.pair import Pair
from pairtune.reproductions.frame import Part, Results
from pairtune.reproductions.likelihood import sets
from pairtune.reproductions.likelihood.bench import Bench
from pairtune.reproductions.likelihood.placement import BEST_LENGTH, LENGTH, keep, missing, short

log = logging.getLogger("pairtune")
CLINC, BANKING = "CLINC150 / out of scope", "BANKING77 / held-out intents"
# Arm → detector. LR and NLR are the method; LH and NLH the plain likelihood of the variant.
ARMS = {
    "LR": "log-ratio:sum",
    "NLR": "log-ratio:token",
    "LR / base LH": "log-ratio:base",
    "LH": "likelihood:sum",
    "NLH": "likelihood:token",
    "base LH": "likelihood:base:sum",
    "base NLH": "likelihood:base:token",
    LENGTH: "length",
    "kNN": "knn",
    "Mahalanobis": "mahalanobis",
}
SENTENCE_ARMS = {"kNN, MiniLM": "knn", "Mahalanobis, MiniLM": "mahalanobis"}
SHOWN = ("LR", "NLR", "LH", "NLH", LENGTH)


def run(results: Results, settings: dict[str, Any]) -> None:
    """Fill in what is missing."""
    benches = {
        CLINC: clinc_bench(results, settings),
        BANKING: Bench("banking", results, sets.banking(settings), settings),
    }
    seeds = missing(results, ARMS, settings)
    sentences = _sentence_scores(results, benches) if seeds else {}
    for seed in seeds:
        by_split = {}
        for split, bench in benches.items():
            inside, outside = scores(bench.variant(seed), bench.task, ARMS, _texts(bench), settings["max_length"])
            extra = sentences.get(split, ({}, {}))
            by_split[split] = ({**extra[0], **inside}, {**extra[1], **outside})
        keep(results, seed, by_split)
        for split in benches:
            log.info("seed %d, %s: %s", seed, split, short(results, split, SHOWN))
    benches[BANKING].drop()  # those on CLINC150 are used by the other experiments


def clinc_bench(results: Results, settings: dict[str, Any]) -> Bench:
    """The variants that are tuned on CLINC150."""
    return Bench("clinc", results, sets.clinc(settings), settings)


def scores(
    pair: Pair, task: Task, arms: Mapping[str, str], texts: Sequence[Sequence[Any]], max_length: int, **options: Any
) -> list[dict[str, np.ndarray]]:
    """For each list of texts: arm → [N] scores. Detectors that learn do so on the task's train split."""
    scorer = Scorer(pair, list(dict.fromkeys(arms.values())), max_length, task=task, **options).fit(task)
    tables = [scorer.table(some) for some in texts]
    return [{arm: table[detector] for arm, detector in arms.items()} for table in tables]


def _texts(bench: Bench) -> list[list[str]]:
    (outside,) = bench.ground.ood.values()
    return [bench.ground.test, outside]


def _sentence_scores(results: Results, benches: Mapping[str, Bench]) -> dict[str, Any]:
    """Split → scores of ID and OOD texts by distances between a sentence encoder's mean-pooled states; no seed."""
    try:
        base = Base.load("zoo:minilm")
    except InputError as error:
        results.note("sentence encoder", f"left out: {error}")
        return {}
    pair = Pair(base)
    return {split: scores(pair, bench.task, SENTENCE_ARMS, _texts(bench), 64) for split, bench in benches.items()}


PARTS = tuple(
    Part(f"{method} against {baseline}, {split.split(' / ')[0]}", method, baseline, (split,), worth=0.01)
    for split in (CLINC, BANKING)
    for method, baseline in (("LR", "LH"), ("NLR", "NLH"), ("LR", BEST_LENGTH))
) + tuple(
    Part(f"{method} against {baseline}, both", method, baseline, (CLINC, BANKING), worth=0.01, counts=False)
    for method, baseline in (
        ("LR", "NLR"),
        ("LR", "NLH"),
        ("LR", "base LH"),
        ("LR / base LH", "NLR"),
        ("LR", "kNN"),
        ("LR", "Mahalanobis"),
    )
)
