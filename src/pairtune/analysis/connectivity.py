"""Will a delta work on another version of its base? The loss along the lines between bases and between fine-tunes.

Lin et al., "Efficient Model Development through Fine-tuning Transfer", arXiv 2503.20110: a moved delta works where the
fine-tunes of the old and of the new base are joined by a line of low loss. With L the mean loss of the task's rows and
theta(a) = (1 - a) theta_0 + a theta_1, linear mode connectivity is measured by

    barrier  B = max_a [ L(a) - (1 - a) L(0) - a L(1) ]        a = 0, 0.1, ..., 1

Before anything is tuned on the new base, two lines are known: from the old base to the new one, and from the new base
over the moved variant to 1.2 times the delta. A variant that was tuned on the new base adds two: from the moved variant
to it, and from the old fine-tune to it, with the share of its gain that the moved delta recovers,

    R = (m(new base + delta) - m(new base)) / (m(tuned) - m(new base))        m: the task's main metric

The lines between bases go through every tensor of the model; all are measured on ID validation rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pairtune.analysis.answers import ask, evenly
from pairtune.analysis.path import ALPHAS as BEYOND
from pairtune.analysis.path import MAIN, Curve, Items, along, point, scored_splits
from pairtune.analysis.predict import Reader, readable
from pairtune.analysis.progress import Steps
from pairtune.analysis.report import Document, Report
from pairtune.analysis.sweep import ALPHAS, LOSS, ROWS, VALIDATION, Barrier, on_line, summed_up
from pairtune.errors import InputError, MissingView
from pairtune.pair.line import Line, line_between, weights_of
from pairtune.pair.pair import Pair
from pairtune.pair.paired import Difference, compare

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.data.split import Split
    from pairtune.data.task import Task

OLD, SOURCE, NEW, MOVED, TUNED = "old base", "old fine-tune", "new base", "new base + delta", "tuned on the new base"
BASES, FINE_TUNES, ON_NEW = "old base to new base", "old fine-tune to tuned", "moved to tuned"


@dataclass(frozen=True)
class Connection:
    """One line: the main metric and the loss along it, and the barrier of the loss."""

    curve: Curve
    losses: Curve
    barrier: Barrier


@dataclass(frozen=True)
class Along:
    """From the new base (0) over the moved variant (1) to 1.2 times the delta.

    Attributes:
        change: the loss at 1 minus that at 0, over the same rows.
        best: the alpha of the lowest loss. gap: the loss at 1 minus that at `best`, over the same rows.
    """

    alphas: list[float]
    curve: Curve
    losses: Curve
    change: Difference
    best: float
    gap: Difference


@dataclass(frozen=True)
class Connectivity(Report):
    """What `connectivity` found.

    Attributes:
        metric, loss: what is measured. split: on which rows; rows: (how many were scored, how many there are).
        lines: line → what was measured along it. delta: the new base plus fractions of the moved delta.
        metrics: model → main metric. recovery: R; None where the tuned variant is no better than its base.
        missing: what could not be measured → why.
    """

    schema: ClassVar[str] = "pairtune.connectivity/1"
    moved: str
    onto: str
    task: str
    metric: str
    loss: str
    split: str
    rows: tuple[int, int]
    alphas: list[float]
    lines: dict[str, Connection]
    delta: Along | None
    metrics: dict[str, float]
    recovery: float | None
    missing: dict[str, str]

    def document(self) -> Document:
        """The report as a page or on the terminal."""
        from pairtune.analysis.connectivity_shown import document

        return document(self)


def connectivity(
    moved: Pair, task: Task, *, source: Pair | None = None, tuned: Pair | None = None, everything: bool = False
) -> Connectivity:
    """Measure what is known of a moved delta's lines.

    Args:
        moved: the pair of the new base and the moved delta.
        source: the old pair, for the lines that begin at the old base and at the old fine-tune.
        tuned: a variant that was tuned on the new base.
        everything: score every row; otherwise at most 500, evenly spread.

    Raises `InputError` for a task without rows to score, `BaseMismatch` for a tuned variant of another base.
    """
    task = readable(moved, task, list(scored_splits(task)))
    name, rows, there = _rows(task, everything)
    kind, missing = task.kind, {}
    lines: dict[str, tuple[Pair, Callable[[], Line]]] = {}  # with the pair on whose model the line lies
    if source is not None:
        lines[BASES] = moved, lambda: line_across(Pair(source.base), Pair(moved.base))
        if tuned is not None:
            lines[FINE_TUNES] = tuned, lambda: line_across(source, tuned)
    if tuned is not None:
        lines[ON_NEW] = moved, lambda: line_between(moved, tuned)
    with Steps("connectivity", len(BEYOND) + len(lines) * len(ALPHAS) + 1) as step:
        delta = _delta(moved, task, rows, step, missing)
        found = {}
        for words, (reader, make) in lines.items():
            try:
                line = make()
            except MissingView as error:
                missing[words] = str(error)
                continue
            said = along(reader, {name: (task, rows)}, ALPHAS, partial(on_line, reader, line), step)
            found[words] = _connection(name, said, kind)
        step("the models themselves")
        metrics = _metrics(moved, source, tuned, task, rows)
    return Connectivity(
        moved=str(moved.card.parents[0]) if moved.card and moved.card.parents else "the moved delta",
        onto=moved.base.source,
        task=task.name,
        metric=MAIN[kind],
        loss=LOSS[kind],
        split=name,
        rows=(len(rows), there),
        alphas=list(ALPHAS),
        lines=found,
        delta=delta,
        metrics=metrics,
        recovery=recovery(metrics) if tuned is not None else None,
        missing=missing,
    )


def line_across(first: Pair, second: Pair) -> Line:
    """From one variant (or bare base) to another, of two bases of one architecture, on the second one's model.

    Goes through every parameter of the model; enter it inside `second.off()`. Raises `MissingView` where a delta is no
    change of weights, a head is new on one side alone, or the tensors differ in name or shape.
    """
    ends = []
    for pair in (first, second):
        own, changed = pair.base.parameters, weights_of(pair)
        lacking = sorted(name for name in pair.base.new_names if name not in changed)
        if lacking:
            raise MissingView(f"the head {lacking[0]} is new in {pair.base.source}, so that no line begins there")
        ends.append({name: changed.get(name, parameter.detach()) for name, parameter in own.items()})
    start, end = ends
    odd = [name for name in sorted(start.keys() | end.keys()) if _shape(start, name) != _shape(end, name)]
    if odd:
        raise MissingView(f"{odd[0]} is not the same tensor on both sides, so that there is no line between them")
    return Line(second.base.model, {name: tensor.to(end[name]) for name, tensor in start.items()}, end)


def recovery(metrics: Mapping[str, float]) -> float | None:
    """R from the metrics of `NEW`, `MOVED` and `TUNED`; None where tuning changed nothing or the head is new."""
    if NEW not in metrics or metrics[TUNED] == metrics[NEW]:
        return None
    return (metrics[MOVED] - metrics[NEW]) / (metrics[TUNED] - metrics[NEW])


def _rows(task: Task, everything: bool) -> tuple[str, Split, int]:
    """The split that is scored (ID validation where there is one), its rows, and how many it has."""
    there = scored_splits(task)
    if not there:
        raise InputError(f"{task.name}: no split but train has rows with a target, so that nothing can be scored")
    name = VALIDATION if VALIDATION in there else next(iter(there))
    rows = there[name]
    return name, rows.select(evenly(len(rows), None if everything else ROWS)), len(rows)


def _delta(moved: Pair, task: Task, rows: Split, step: Callable[[str], None], missing: dict[str, str]) -> Along | None:
    if moved.base.new_names:
        missing["new base + alpha · delta"] = "the head is new, so that the new base has none to compare with"
        return None
    try:
        said = along(moved, {"rows": (task, rows)}, BEYOND, lambda alpha: point(moved, alpha), step)
    except MissingView as error:
        missing["new base + alpha · delta"] = str(error)
        return None
    found = summed_up(said, task.kind, BEYOND)
    losses = _losses(said["rows"], found["loss"])
    here, best = losses[BEYOND.index(1.0)], int(losses.mean(1).argmin())
    change, gap = compare(losses[BEYOND.index(0.0)], here), compare(losses[best], here)
    return Along(list(BEYOND), found["curves"]["rows"], found["losses"]["rows"], change, BEYOND[best], gap)


def _connection(name: str, said: Mapping[str, Items], kind: str) -> Connection:
    found = summed_up({name: said[name]}, kind, ALPHAS)
    return Connection(found["curves"][name], found["losses"][name], found["barriers"][name])


def _metrics(moved: Pair, source: Pair | None, tuned: Pair | None, task: Task, rows: Split) -> dict[str, float]:
    """Each model's main metric; a base whose head is new has none."""
    found = {}
    for base, variant, pair in ((OLD, SOURCE, source), (NEW, MOVED, moved), ("", TUNED, tuned)):
        if pair is None:
            continue
        if base and not pair.base.new_names:
            with pair.off():
                found[base] = _mean(pair, task, rows)
        found[variant] = _mean(pair, task, rows)
    return found


def _mean(pair: Pair, task: Task, rows: Split) -> float:
    return float(np.mean(ask(Reader(pair, task), rows).items[MAIN[task.kind]]))


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def _losses(items: Items, loss: str) -> np.ndarray:
    return 1 - items["exact_match"] if loss == "error" else items[loss]
