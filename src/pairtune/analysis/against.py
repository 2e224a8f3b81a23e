"""Two variants of one base on the same rows: what the second says better or worse than the first, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from pairtune.analysis.answers import ask, same_base, scorable
from pairtune.analysis.behaviour import differences_table, metrics_table, notes
from pairtune.analysis.evaluate import Evaluation
from pairtune.analysis.predict import Reader, readable
from pairtune.analysis.report import Document, Section
from pairtune.pair.paired import compare

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair


@dataclass(frozen=True)
class Against(Evaluation):
    """Metrics of two variants by split; `differences`: split → name of the second → metric → second − first."""

    schema: ClassVar[str] = "pairtune.against/1"

    def document(self) -> Document:
        """The metrics and the differences, as two tables."""
        names = list(next(iter(self.metrics.values()), {}))
        tables = [metrics_table(self)] if self.metrics else []
        if self.differences:
            tables.append(replace(differences_table(self), caption=f"{names[1]} − {names[0]} on the same rows"))
        return Document("", (), (), [Section("against", "", "", [*tables, *notes(self)])])


def against(
    first: tuple[str, Pair], second: tuple[str, Pair], task: Task, splits: Sequence[str] | None = None
) -> Against:
    """Ask two named pairs about the rows of some splits (by default test and every OOD split).

    Raises `BaseMismatch` for pairs on different bases, `InputError` for a split that does not exist.
    """
    chosen = splits or [name for name in task.splits if name == "test" or name.startswith("ood/")]
    task = readable(same_base(dict([first, second])), task, chosen)
    found = Against({}, {}, {})
    for name in chosen:
        rows, left_out = scorable(task, task.split(name))
        if not len(rows):
            found.skipped[name] = f"none of its {left_out} rows has a label of this task"
            continue
        sides = {label: ask(Reader(pair, task), rows) for label, pair in (first, second)}
        before, after = (side.items for side in sides.values())
        found.items[name] = len(rows)
        found.metrics[name] = {label: side.metrics for label, side in sides.items()}
        found.differences[name] = {second[0]: {metric: compare(before[metric], after[metric]) for metric in after}}
    return found
