"""First experiment: a real domain shift. Product reviews, tuned on books, tested on four other domains.

A frozen 22 M-parameter sentence encoder (`zoo:minilm`), 300 training and 200 validation reviews, the first 48 tokens of
each, 200 test reviews a domain.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pairtune.analysis.predict import Reader
from pairtune.data.task import Task
from pairtune.pair.pair import Pair
from pairtune.reproductions.frame import Results
from pairtune.reproductions.levi_arms import ARMS, ENSEMBLE, FULL, SMALL, Bench, ensemble, load_answers
from pairtune.reproductions.sources import Rows, rows_of, write_task

log = logging.getLogger("pairtune")
DOMAINS = ("books", "dvd", "electronics", "kitchen", "video")
OOD = tuple(f"ood/{domain}" for domain in DOMAINS[1:])
BEST_HEAD = "(f) best single head"


def run(results: Results, settings: dict[str, Any]) -> None:
    """Fill in what is missing, cheap arms first."""
    folder = results.folder / "reviews"
    if not folder.is_dir():
        write_task(folder, reviews(settings))
    bench = Bench(results, load_task(folder), folder, settings["base"], settings)
    for arm in ARMS:
        rate = bench.rate(arm)
        for seed in bench.missing(arm):
            pair = bench.tuned(arm, rate, seed)
            if arm == FULL:
                bench.tuned_base(seed, pair)
            answers = keep(bench, arm, seed, pair)
            results.add(arm, seed, outcomes(bench, answers))
            if arm == "LEVI":
                batches = (b for _, b in _reader(bench, pair).batches(bench.task.split("validation")))
                pair.top.installed.choose_head(batches)  # type: ignore[attr-defined]
                results.add(BEST_HEAD, seed, outcomes(bench, answers_to(bench, pair)))
            log.info("%s, seed %d: %s", arm, seed, _means(results.outcomes[arm][seed]))
    for seed in bench.missing(ENSEMBLE):
        one, two = (load_answers(bench.kept(arm, seed)) for arm in (FULL, SMALL))
        results.add(ENSEMBLE, seed, outcomes(bench, ensemble(one, two)))


def answers_to(bench: Bench, pair: Pair) -> dict[str, np.ndarray]:
    """[N, 2] log-probabilities on the ID test split and on every OOD split."""
    return {name: bench.answers(pair, bench.task.split(name)) for name in ("test", *OOD)}


def keep(bench: Bench, arm: str, seed: int, pair: Pair) -> dict[str, np.ndarray]:
    """The pair's answers, also kept in a file."""
    answers = answers_to(bench, pair)
    np.savez(bench.kept(arm, seed), allow_pickle=False, **answers)
    return answers


def outcomes(bench: Bench, answers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """1 for a right and 0 for a wrong answer, by split."""
    return {split: bench.right(values, bench.task.split(split)) for split, values in answers.items()}


def domain_rows(settings: Mapping[str, Any], file: str) -> Rows:
    """The rows `text` and `label` of one file of the data folder. Raises `InputError` where there is none."""
    return [{"text": row["text"], "label": row["label"]} for row in rows_of(settings, "amazon_domains", file)]


def reviews(settings: Mapping[str, Any]) -> dict[str, Rows]:
    """The cut data: books to tune on, each domain's test reviews as a split."""
    books = domain_rows(settings, "books_train")
    sizes = settings["train"], settings["train"] + settings["validation"]
    splits = {"train": books[: sizes[0]], "validation": books[sizes[0] : sizes[1]]}
    for split, domain in zip(("test", *OOD), DOMAINS, strict=True):
        splits[split] = domain_rows(settings, f"{domain}_test")[: settings["test"]]
    return splits


def load_task(folder: Path) -> Task:
    """The task that `write_task` wrote."""
    return Task.load(folder, kind="classification", text="text", label="label", name="reviews")


def _reader(bench: Bench, pair: Pair) -> Reader:
    return Reader(pair, bench.task, bench.settings["max_length"])


def _means(outcome: dict[str, list[float]]) -> str:
    return ", ".join(f"{split} {np.mean(values):.3f}" for split, values in outcome.items())
