"""Rank bases for a task before anyone tunes them, by what their frozen features say.

Scores are no forecasts: they put bases in an order, and do not say how good a tuned one will be, nor how to tune it.
Different scores may disagree; so the order by the mean of their ranks is given (min-max sums depend on which bases are
in the pool), how stable it is over halves of the rows, and the order by size alone, which any score should beat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.stats import rankdata

from pairtune.analysis.answers import scorable, spread
from pairtune.analysis.progress import Steps
from pairtune.analysis.report import Document, Report
from pairtune.analysis.transferability import evidence, scatter, shape, source
from pairtune.analysis.transferability.features import Features, features_of
from pairtune.errors import InputError

if TYPE_CHECKING:
    from pairtune.data.task import Task

ROWS, LEAST, HALVES = 512, 20, 10
Metric = Callable[[Features], float]


def _labelled(score: Callable[[np.ndarray, np.ndarray], float]) -> Metric:
    def of(found: Features) -> float:
        assert found.classes is not None
        return score(found.last, found.classes)

    return of


def _headed(score: Callable[[np.ndarray, np.ndarray], float]) -> Metric:
    def of(found: Features) -> float:
        assert found.classes is not None and found.source is not None
        return score(found.source, found.classes)

    return of


ANY: dict[str, Metric] = {
    "linear probe": lambda found: evidence.linear_probe(found.last, found.classes, found.numbers),
    "logme": lambda found: evidence.logme(found.last, found.columns),
    "parc": lambda found: shape.parc(found.last, found.columns),
}
CLASSES: dict[str, Metric] = {
    "h-score": _labelled(scatter.h_score),
    "transrate": _labelled(scatter.transrate),
    "gbc": _labelled(scatter.gbc),
    "n-leep": _labelled(source.n_leep),
}
HEADED: dict[str, Metric] = {"leep": _headed(source.leep), "nce": _headed(source.nce)}
# Sums of parts, each brought to 0 … 1 over the bases first.
SUMS: dict[str, tuple[Metric, ...]] = {
    "etran": (
        lambda found: shape.energy(found.last),
        lambda found: (
            scatter.lda(found.last, found.classes)
            if found.classes is not None
            else shape.regression_fit(found.last, found.columns)
        ),
    ),
    "template, without trend": (
        lambda found: shape.concentration(found.last),
        lambda found: shape.kept(found.first, found.last),
    ),
}


@dataclass(frozen=True)
class Candidate:
    """One base. parameters: how many it has. scores, ranks: metric → value; the best has rank 1, ties share theirs.

    Attributes:
        mean_rank: over the metrics. first: in how many halves of the rows its mean rank is the best.
    """

    parameters: int
    width: int
    scores: dict[str, float]
    ranks: dict[str, float]
    mean_rank: float
    first: int


@dataclass(frozen=True)
class Transferability(Report):
    """What `rank_bases` found.

    Attributes:
        task: its name. rows: how many were read. halves: how many halves of the rows were ranked by themselves.
        candidates: by base, the best mean rank first.
        lacking: metrics that could not be computed for all bases → why.
    """

    schema: ClassVar[str] = "pairtune.transferability/1"
    task: str
    rows: int
    halves: int
    candidates: dict[str, Candidate]
    lacking: dict[str, str]

    def document(self) -> Document:
        """The report as a page or on the terminal."""
        from pairtune.analysis.transferability.shown import document

        return document(self)


def rank_bases(bases: Sequence[str], task: Task, *, rows: int = ROWS, seed: int = 0) -> Transferability:
    """Score at least two bases on training rows of a task of classes or numbers.

    Args:
        bases: hub ids, folders or zoo names; each is loaded, read and let go, so that one is in memory at a time.
        rows: the most rows, evenly spread over the training split; the same for all bases.
        seed: draws the halves.

    Raises `InputError` for a task of another kind, too few rows or bases, or a base that reads something else.
    """
    from pairtune.pair.base import Base

    if task.kind not in ("classification", "regression"):
        raise InputError(f"{task.name}: bases are ranked for tasks of classes or numbers, this one is {task.kind}")
    if len(set(bases)) < 2:
        raise InputError("name at least two different bases; one alone cannot be ranked")
    chosen = spread(scorable(task, task.split("train"))[0], rows)
    if len(chosen) < LEAST:
        raise InputError(f"{task.name}: {len(chosen)} rows with a target are too few to rank by, {LEAST} are needed")
    found: dict[str, Features] = {}
    sizes: dict[str, int] = {}
    with Steps("rank", len(bases) + 1) as step:
        for name in bases:
            step(name)
            base = Base.load(name, task=task.kind, labels=task.labels or None)
            sizes[name] = sum(one.numel() for key, one in base.model.named_parameters() if key not in base.new_names)
            found[name] = features_of(base, task, chosen)
        step("scores")
        metrics, lacking = _metrics(found)
        whole = _scores(found, metrics)
        draw = np.random.default_rng(seed)
        halves = [_half(found, draw) for _ in range(HALVES)]
        firsts = [min(found, key=_mean_ranks(_scores(half, metrics)).__getitem__) for half in halves]
    ranks, means = _ranks(whole), _mean_ranks(whole)
    candidates = {
        name: Candidate(
            sizes[name],
            found[name].last.shape[1],
            {metric: values[name] for metric, values in whole.items()},
            {metric: values[name] for metric, values in ranks.items()},
            means[name],
            firsts.count(name),
        )
        for name in sorted(found, key=means.__getitem__)
    }
    return Transferability(task.name, len(chosen), HALVES, candidates, lacking)


def _metrics(found: Mapping[str, Features]) -> tuple[dict[str, Metric], dict[str, str]]:
    """The metrics that all bases have, and why others are left out."""
    classes = all(one.classes is not None for one in found.values())
    metrics = ANY | (CLASSES if classes else {})
    headless = [name for name, one in found.items() if one.source is None]
    if classes and not headless:
        return metrics | HEADED, {}
    why = f"{headless[0]} has no classifier of its own" if classes else "the task has no classes"
    return metrics, dict.fromkeys(HEADED, why)


def _scores(found: Mapping[str, Features], metrics: Mapping[str, Metric]) -> dict[str, dict[str, float]]:
    """Metric → base → score; of sums, over these bases."""
    scores = {metric: {name: score(one) for name, one in found.items()} for metric, score in metrics.items()}
    for metric, parts in SUMS.items():
        values = np.array([[part(one) for part in parts] for one in found.values()])
        span = np.ptp(values, axis=0)
        scaled = (values - values.min(0)) / np.where(span > 0, span, 1.0)
        scores[metric] = dict(zip(found, scaled.sum(1).tolist(), strict=True))
    return scores


def _ranks(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Metric → base → rank, 1 the highest score; equal ones share the mean of theirs."""
    return {
        metric: dict(zip(values, rankdata([-value for value in values.values()]).tolist(), strict=True))
        for metric, values in scores.items()
    }


def _mean_ranks(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    ranks = list(_ranks(scores).values())
    return {name: float(np.mean([one[name] for one in ranks])) for name in ranks[0]}


def _half(found: Mapping[str, Features], draw: np.random.Generator) -> dict[str, Features]:
    """The same half of the rows of every base; of classes, half of each, at least two."""
    first = next(iter(found.values()))
    classes = np.zeros(len(first.last), int) if first.classes is None else first.classes
    places = []
    for one in np.unique(classes):
        own = draw.permutation(np.flatnonzero(classes == one))
        places += own[: max(2, len(own) // 2)].tolist()
    kept = np.sort(places)

    def cut(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[kept]

    return {
        name: Features(one.last[kept], one.first[kept], cut(one.classes), cut(one.numbers), cut(one.source))
        for name, one in found.items()
    }
