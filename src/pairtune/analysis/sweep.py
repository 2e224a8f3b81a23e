"""The path between two states of a model on ID validation and every OOD split: best point, gain, barrier.

Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), arXiv 2109.01903: the average of a pretrained
model's weights and a fine-tuned one's can be better out of distribution than either. Abdollahpoorrostam, "In Search of
the Successful Interpolation", arXiv 2410.16476, asks when it is. With theta(a) = (1 - a) theta_0 + a theta_1,

    gain     G = max_a mean_j m_j(a) - max(mean_j m_j(0), mean_j m_j(1))    m_j: metric on OOD split j, more is better
    barrier  B = max_a [ L(a) - (1 - a) L(0) - a L(1) ]                       L: mean loss of a split's rows

a is picked on ID validation alone, and G is given at that a; the a that is best on the OOD rows themselves is an
oracle, reported apart. a goes from 0 (the base) to 1 (the variant) in steps of 0.1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pairtune.analysis.answers import evenly
from pairtune.analysis.behaviour import RISING
from pairtune.analysis.path import MAIN, Curve, Items, along, curve, point, scored_splits
from pairtune.analysis.predict import readable
from pairtune.analysis.progress import Steps
from pairtune.analysis.report import Document, Report
from pairtune.errors import InputError
from pairtune.pair.line import Line, line_between, line_of
from pairtune.pair.paired import ENDS, Difference, compare, resampled

if TYPE_CHECKING:
    from pairtune.analysis.layers import Layers
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair

ALPHAS = tuple(i / 10 for i in range(11))
ROWS = 500  # of a split that are scored at each point
# What has a barrier: the loss where it is a mean of rows; the error, 1 - exact match, for several labels.
LOSS = {
    "classification": "nll",
    "multilabel": "error",
    "regression": "squared_error",
    "lm": "nll",
    "seq2seq": "nll",
}
VALIDATION = "validation"


@dataclass(frozen=True)
class Gain:
    """How much better a point is than the better end, on the mean of the OOD splits; positive is better.

    Attributes:
        end: the better end, 0 or 1. splits: over which splits the mean goes.
    """

    mean: float
    low: float
    high: float
    end: int
    splits: list[str]


@dataclass(frozen=True)
class Point:
    """One point of the path. `values`: split → metric there; `changes`: split → its difference from either end.

    `changes[split]` is (from start, from end), over the same rows, in the metric's own direction.
    """

    alpha: float
    values: dict[str, float]
    changes: dict[str, tuple[Difference, Difference]]
    gain: Gain | None


@dataclass(frozen=True)
class Barrier:
    """How far the loss rises above the chord between its ends, where it does so most, with the 95 % interval there."""

    height: float
    low: float
    high: float
    alpha: float


@dataclass(frozen=True)
class Sweep(Report):
    """What `sweep` found.

    Attributes:
        start, end: what stands at alpha 0 and 1.
        metric: what alpha is picked by. loss: what the barriers are of.
        curves, losses: split → its curve over `alphas`.
        chosen: the point that is best on ID validation (of equal ones that with the lower loss); None without a
            validation split.
        oracle: the point that is best on the OOD rows themselves; None without OOD splits.
        sampled: split → (rows that were scored, rows that there are).
    """

    schema: ClassVar[str] = "pairtune.sweep/1"
    start: str
    end: str
    task: str
    metric: str
    loss: str
    alphas: list[float]
    curves: dict[str, Curve]
    losses: dict[str, Curve]
    chosen: Point | None
    oracle: Point | None
    barriers: dict[str, Barrier]
    sampled: dict[str, tuple[int, int]]
    skipped: dict[str, str] = field(default_factory=dict)
    layers: Layers | None = None

    def document(self) -> Document:
        """The report as a page or on the terminal."""
        from pairtune.analysis.sweep_shown import document

        return document(self)


@dataclass(frozen=True)
class Route:
    """What is swept.

    Attributes:
        pair: reads the rows. at: makes its side that is on the point at alpha while inside.
        line: the weights' line; inside `pair.off()` its points are those of `at`. Raises where there is none.
    """

    pair: Pair
    start: str
    end: str
    at: Callable[[float], AbstractContextManager[None]]
    line: Callable[[], Line]


def route(pairs: Pair | Mapping[str, Pair]) -> Route:
    """From the base to one variant, or from the first of two variants to the second.

    Raises `InputError` for another number of pairs, or as `line_of` and `line_between` do.
    """
    named = {"variant": pairs} if not isinstance(pairs, Mapping) else dict(pairs)
    if len(named) not in (1, 2):
        raise InputError(f"a path has two ends: name one pair, or two of one base (found {len(named)})")
    (start, first), *_ = items = list(named.items())
    end, second = items[-1]
    if len(named) == 2:
        line = line_between(first, second)
        return Route(first, start, end, partial(on_line, first, line), lambda: line)
    if first.base.new_names:
        line = line_of(first)
        return Route(first, "the stage before", end, partial(on_line, first, line), lambda: line)
    return Route(first, "base", end, partial(point, first), partial(line_of, first))


def sweep(pairs: Pair | Mapping[str, Pair], task: Task, *, layers: bool = False, everything: bool = False) -> Sweep:
    """Measure the path from the base to a variant, or from one variant to another (two pairs by name).

    Args:
        layers: also ask each layer how sharp it is and whether it lags behind, and thin those that do; see `layers.py`.
        everything: score every row; otherwise at most 500 of a split, evenly spread.

    Raises `MissingView` for a delta that has no fractions, `BaseMismatch` for pairs of different bases, `InputError`
    for a task that cannot be scored.
    """
    way = route(pairs)
    task = readable(
        way.pair, task, list(scored_splits(task)) + (["train"] if layers and "train" in task.splits else [])
    )
    there = scored_splits(task)
    if not there:
        raise InputError(f"{task.name}: no split but train has rows with a target, so that nothing can be scored")
    parts = {name: (task, rows.select(evenly(len(rows), None if everything else ROWS))) for name, rows in there.items()}
    with Steps("sweep", len(ALPHAS)) as step:
        said = along(way.pair, parts, ALPHAS, way.at, step)
    found = summed_up(said, task.kind)
    of_layers = None
    if layers:
        from pairtune.analysis.layers import of_route

        of_layers = of_route(way, task, parts, said)
    return Sweep(
        layers=of_layers,
        start=way.start,
        end=way.end,
        task=task.name,
        sampled={name: (len(rows), len(there[name])) for name, (_, rows) in parts.items()},
        skipped={name: "no row has a label of this task" for name in task.splits if name not in {*there, "train"}},
        **found,
    )


def summed_up(said: Mapping[str, Items], kind: str, alphas: Sequence[float] = ALPHAS) -> dict:
    """From values [A, N] by split and metric: curves, chosen point, oracle and barriers, by `Sweep`'s names."""
    metric, loss = MAIN[kind], LOSS[kind]
    picked = best(said[VALIDATION], kind) if VALIDATION in said else None
    outside = [name for name in said if name.startswith("ood/")]
    rising = metric in RISING
    oracle = None
    if outside:
        means = np.mean([said[name][metric].mean(1) for name in outside], axis=0)
        oracle = int(np.argmax(means if rising else -means))
    return {
        "metric": metric,
        "loss": loss,
        "alphas": list(alphas),
        "curves": {name: curve(metric, items) for name, items in said.items()},
        "losses": {name: curve(loss, {loss: _losses(items, loss)}) for name, items in said.items()},
        "chosen": None if picked is None else _point(said, metric, picked, outside, alphas),
        "oracle": None if oracle is None else _point(said, metric, oracle, outside, alphas),
        "barriers": {name: barrier(_losses(items, loss), alphas) for name, items in said.items()},
    }


def best(items: Items, kind: str) -> int:
    """The index of the best point by a split's values [A, N]: by the main metric, of equal ones by the loss."""
    metric, loss = MAIN[kind], LOSS[kind]
    scores = items[metric].mean(1) * (1 if metric in RISING else -1)
    losses = _losses(items, loss).mean(1)
    return min(range(len(scores)), key=lambda i: (-round(float(scores[i]), 12), float(losses[i])))


def gain(tables: Sequence[np.ndarray], at: int, rising: bool, splits: list[str]) -> Gain:
    """How much better the point `at` is than the better end, on the mean over tables [A, N_j] (first and last: ends).

    The interval is a bootstrap over the rows of each table; which end is the better one is not drawn anew.
    """
    sign = 1 if rising else -1
    ends = [sign * float(np.mean([table[i].mean() for table in tables])) for i in (0, -1)]
    end = int(ends[1] >= ends[0])
    gaps = [sign * (table[at] - table[-1 if end else 0]) for table in tables]
    low, high = np.quantile(np.mean([resampled(gap, i) for i, gap in enumerate(gaps)], axis=0), ENDS)
    return Gain(float(np.mean([gap.mean() for gap in gaps])), float(low), float(high), end, splits)


def barrier(losses: np.ndarray, alphas: Sequence[float] = ALPHAS) -> Barrier:
    """The barrier of one split's losses [A, N]; at an end, and 0, where the loss is nowhere above the chord."""
    places = np.array(alphas)[:, None]
    above = losses - (1 - places) * losses[0] - places * losses[-1]
    most = int(np.argmax(above.mean(1)))
    change = compare(np.zeros(losses.shape[1]), above[most])
    return Barrier(change.mean, change.low, change.high, float(alphas[most]))


def _point(said: Mapping[str, Items], metric: str, at: int, outside: list[str], alphas: Sequence[float]) -> Point:
    tables = {name: items[metric] for name, items in said.items()}
    return Point(
        alpha=float(alphas[at]),
        values={name: float(table[at].mean()) for name, table in tables.items()},
        changes={name: (compare(table[0], table[at]), compare(table[-1], table[at])) for name, table in tables.items()},
        gain=gain([tables[name] for name in outside], at, metric in RISING, outside) if outside else None,
    )


def _losses(items: Items, loss: str) -> np.ndarray:
    return 1 - items["exact_match"] if loss == "error" else items[loss]


@contextlib.contextmanager
def on_line(pair: Pair, line: Line, alpha: float) -> Iterator[None]:
    """A point of a line on the pair's base, as the side that is on, while inside."""
    with pair.off(), line.at(alpha):
        yield
