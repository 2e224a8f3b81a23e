"""Metrics of a base and any number of variants on a task's splits, over the same items, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pairtune.analysis.answers import BASE, Answers, gather, same_base
from pairtune.analysis.predict import readable
from pairtune.analysis.report import Document, Report, Section
from pairtune.pair.pair import Pair
from pairtune.pair.paired import Difference, compare

if TYPE_CHECKING:
    from pairtune.data.task import Task

__all__ = ["BASE", "Evaluation", "compared", "evaluate"]


@dataclass(frozen=True)
class Evaluation(Report):
    """What `evaluate` found.

    Attributes:
        metrics: split → model → metric → value. The base is the model "base", or "base + linear probe" where the head
            is new and the base has none of its own.
        differences: split → variant → metric → variant − base over the same items.
        items: split → number of rows that were scored.
        skipped: split → why it was not scored.
    """

    schema: ClassVar[str] = "pairtune.eval/1"
    metrics: dict[str, dict[str, dict[str, float]]]
    differences: dict[str, dict[str, dict[str, Difference]]]
    items: dict[str, int]
    skipped: dict[str, str] = field(default_factory=dict)

    def document(self) -> Document:
        """The metrics and the differences, as two tables."""
        from pairtune.analysis.behaviour import differences_table, metrics_table, notes

        tables = [metrics_table(self)] if self.metrics else []
        tables += [differences_table(self)] if self.differences else []
        return Document("", (), (), [Section("metrics", "", "", [*tables, *notes(self)])])


def evaluate(
    pairs: Pair | Mapping[str, Pair],
    task: Task,
    splits: Sequence[str] | None = None,
    *,
    generate: bool = False,
    max_length: int | None = None,
) -> Evaluation:
    """Evaluate the base once and every variant, on the test split and all OOD splits by default.

    Args:
        pairs: one pair (named "variant") or several by name; all on one base.
        splits: the splits to score; "train" only where it is asked for.
        generate: for tasks that write text, also generate and compare with the targets (exact match, ROUGE-L, chrF).

    Raises `BaseMismatch` for pairs on different bases, `InputError` for a split that does not exist.
    """
    named = {"variant": pairs} if isinstance(pairs, Pair) else dict(pairs)
    chosen = splits or [name for name in task.splits if name == "test" or name.startswith("ood/")]
    task = readable(same_base(named), task, chosen, max_length)
    return compared(gather(named, task, chosen, generate=generate, max_length=max_length))


def compared(answers: Answers) -> Evaluation:
    """The metrics of answers that were gathered, and every variant's differences from the base."""
    found = Evaluation({}, {}, {}, dict(answers.skipped))
    for name, one in answers.splits.items():
        found.items[name] = len(one.rows)
        found.metrics[name] = {model: side.metrics for model, side in one.sides.items()}
        if one.base is not None:
            before = one.sides[one.base].items
            found.differences[name] = {
                label: {metric: compare(before[metric], after) for metric, after in one.sides[label].items.items()}
                for label in answers.variants
            }
    return found
