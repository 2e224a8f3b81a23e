"""How a search over merges is shown: the best merge beside the pool and the usual merges, on its rows and on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pairtune.analysis.behaviour import RISING, SHARES, shown
from pairtune.analysis.report import Block, Cell, Document, Figure, Lines, Note, Report, Section, Series, Table
from pairtune.pair.paired import Difference

MEANINGS = {
    "calibration": "The rows by which merges were compared. The best of many trials looks too good on them.",
    "test": "Rows that no choice has seen: what the merge is worth.",
    "best of the pool": "The single model that is best on the calibration rows; the merge has to beat it to be of use.",
    "front": "Merges than which no other is better in one task without being worse in another.",
}


@dataclass(frozen=True)
class Tried:
    """One merge that was scored: of the initial design by its name, or a proposal."""

    name: str
    initial: bool
    values: dict[str, float]


@dataclass(frozen=True)
class Searched(Report):
    """What a search over merges found.

    Attributes:
        pool: the models. metric: what was measured on every task; `tasks` are their names.
        rows: task → number of calibration rows.
        trials: all merges that were scored, in order, with the metric on the calibration rows of each task.
        best: the place in `trials` of the one that was taken. front: those that no other beats in all tasks.
        best_of_pool: the name of the model of the pool that is best on the calibration rows.
        test: task → name → metric on the test rows, for the chosen merge ("the merge") and those beside it.
        differences: task → name → the merge minus it, on the same test rows.
        layers: (layer, how it is made), in order.
        recipe: the file that `pairtune merge` runs.
        seconds: of this call.
    """

    schema: ClassVar[str] = "pairtune.search/1"
    pool: list[str]
    metric: str
    tasks: list[str]
    rows: dict[str, int]
    trials: list[Tried]
    best: int
    front: list[int]
    best_of_pool: str
    test: dict[str, dict[str, float]]
    differences: dict[str, dict[str, Difference]]
    layers: list[tuple[str, str]]
    recipe: str
    seconds: float
    skipped: dict[str, str] = field(default_factory=dict)

    def document(self) -> Document:
        """As a page or on the terminal."""
        facts = [("pool", ", ".join(self.pool)), ("tasks", ", ".join(self.tasks)), ("recipe", self.recipe)]
        return Document("A search over merges", facts, _figures(self), [_scores(self), _course(self), _layers(self)])


def _scores(found: Searched) -> Section:
    blocks: list[Block] = []
    best = found.trials[found.best]
    names = list(dict.fromkeys(one.name for one in found.trials if one.initial))
    for task in found.tasks:
        rows: list[Sequence[str | Cell]] = [_row("the merge", best.values[task], found, task)]
        values = {one.name: one.values[task] for one in found.trials if one.initial}
        rows += [_row(name, values[name], found, task) for name in names]
        head = ("model", f"calibration ({found.rows[task]})", "test", "the merge − it, test (95 %)")
        blocks.append(Table(f"{task}: {found.metric}", head, rows, numeric=(1, 2, 3)))
    blocks += [Note(f"{task}: {why}.", missing=True) for task, why in found.skipped.items()]
    used = {name: words for name, words in MEANINGS.items() if name != "front"}
    return Section("scores", "The merge beside the pool", _lead(found), blocks, used)


def _lead(found: Searched) -> str:
    best = found.trials[found.best]
    said = [f"Of {len(found.trials)} merges, trial {found.best + 1} is the best on the calibration rows."]
    if best.initial:
        said = [f"None of {len(found.trials)} merges is better on the calibration rows than {best.name}."]
    for task, gaps in found.differences.items():
        gap = gaps.get(found.best_of_pool)
        if gap is None:
            continue
        text = f"{shown(found.metric, gap.mean, True)} ({shown(found.metric, gap.low, True)} to "
        text += f"{shown(found.metric, gap.high, True)})"
        clear = gap.tone(found.metric in RISING)
        word = {"good": "better than", "bad": "worse than", None: "not clearly different from"}[clear]
        where = f"On the test rows of {task}" if len(found.tasks) > 1 else "On the test rows"
        said.append(f"{where} it is {word} {found.best_of_pool}: {text}.")
    return " ".join(said)


def _row(name: str, value: float, found: Searched, task: str) -> tuple[str | Cell, ...]:
    there = found.test.get(task, {}).get(name)
    gap = found.differences.get(task, {}).get(name)
    cell: str | Cell = ""
    if gap is not None:
        text = f"{shown(found.metric, gap.mean, True)} ({shown(found.metric, gap.low, True)} to "
        text += f"{shown(found.metric, gap.high, True)})"
        cell = Cell(text, tone=gap.tone(found.metric in RISING) or "quiet")
    return name, shown(found.metric, value), "–" if there is None else shown(found.metric, there), cell


def _course(found: Searched) -> Section:
    """How the best grew from trial to trial, and the front of several tasks."""
    rising = found.metric in RISING
    means = [sum(one.values.values()) / len(one.values) for one in found.trials]
    so_far: list[float] = []
    for mean in means:
        keep = so_far and not (mean > so_far[-1] if rising else mean < so_far[-1])
        so_far.append(so_far[-1] if keep else mean)
    places = list(range(1, len(means) + 1))
    series = [Series("this trial", places, means), Series("best so far", places, so_far)]
    title = f"{found.metric} on the calibration rows, trial by trial"
    ends = f"It goes from {shown(found.metric, so_far[0])} to {shown(found.metric, so_far[-1])}."
    steps = [(str(i), shown(found.metric, so_far[i - 1])) for i in _places(len(so_far))]
    blocks: list[Block] = [
        Lines(
            title,
            "trial",
            found.metric,
            series,
            f"{title}. {ends}",
            Table(title, ("trial", "best so far"), steps, (0, 1)),
        )
    ]
    if len(found.tasks) > 1:
        blocks.append(_front(found))
    meanings = {"front": MEANINGS["front"]} if len(found.tasks) > 1 else {}
    return Section("course", "The course of the search", "", blocks, meanings)


def _front(found: Searched) -> Lines:
    one, other = found.tasks[:2]
    points = sorted((found.trials[i] for i in found.front), key=lambda trial: trial.values[one])
    rows = [(trial.name, *(shown(found.metric, trial.values[task]) for task in found.tasks)) for trial in points]
    title = f"The front of {len(points)} merges that no other beats in all tasks"
    table = Table(title, ("merge", *found.tasks), rows, numeric=tuple(range(1, 1 + len(found.tasks))))
    xs, ys = [trial.values[one] for trial in points], [trial.values[other] for trial in points]
    said = f"{title}: from {shown(found.metric, ys[0])} on {other} to {shown(found.metric, ys[-1])}."
    return Lines(title, f"{found.metric}, {one}", f"{found.metric}, {other}", [Series("front", xs, ys)], said, table)


def _places(count: int) -> list[int]:
    """About eight trials, evenly spread, the last among them."""
    step = max(count // 8, 1)
    return sorted({*range(step, count + 1, step), count})


def _layers(found: Searched) -> Section:
    table = Table("What every layer is made of", ("layer", "merge"), found.layers)
    lead = f"`pairtune merge {found.recipe} --out FOLDER` writes this model."
    return Section("recipe", "The recipe", lead, [table])


def _figures(found: Searched) -> list[Figure]:
    figures = []
    for task, gaps in found.differences.items():
        gap = gaps.get(found.best_of_pool)
        if gap is not None:
            unit = " pts" if found.metric in SHARES else ""
            value = f"{shown(found.metric, gap.mean, True)}{unit}"
            figures.append(
                Figure(f"Gain on {task}", value, f"test, over {found.best_of_pool}", gap.tone(found.metric in RISING))
            )
    return figures
