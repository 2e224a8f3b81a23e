"""What base and variants say about the same rows, gathered once for every question that is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pairtune.analysis import metrics as measures
from pairtune.analysis import predict
from pairtune.analysis.predict import Reader
from pairtune.analysis.probe import NAME as PROBE
from pairtune.analysis.probe import Probe
from pairtune.errors import BaseMismatch, DataError, InputError

if TYPE_CHECKING:
    from pairtune.data.split import Split
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair

BASE = "base"


@dataclass(frozen=True)
class Side:
    """What one model says about the rows of one split.

    Attributes:
        outputs: [N, C] class log-probabilities, label probabilities or numbers; None where texts are scored.
        metrics: metric → value over all rows. items: metric → [N] values, of the metrics that are means of rows.
    """

    outputs: np.ndarray | None
    metrics: dict[str, float]
    items: dict[str, np.ndarray]


@dataclass(frozen=True)
class SplitAnswers:
    """One split: the rows that were scored, how many it has, and each model's answers, the base's first.

    `base` is the name of the base's side, None where it has none.
    """

    rows: Split
    total: int
    sides: dict[str, Side]
    base: str | None


@dataclass(frozen=True)
class Answers:
    """All splits that were asked for. `skipped`: split → why it, or some of its rows, were not scored."""

    task: Task
    variants: list[str]
    splits: dict[str, SplitAnswers]
    skipped: dict[str, str] = field(default_factory=dict)


def same_base(pairs: Mapping[str, Pair]) -> Pair:
    """The first of the pairs. Raises `BaseMismatch` for one that stands on another base."""
    first = next(iter(pairs.values()))
    for name, pair in pairs.items():
        difference = first.base.fingerprint.first_difference(pair.base.fingerprint)
        if difference is not None:
            raise BaseMismatch(f"{name} stands on another base than {next(iter(pairs))}: {difference}")
    return first


def gather(
    pairs: Mapping[str, Pair],
    task: Task,
    splits: Sequence[str],
    *,
    generate: bool = False,
    max_length: int | None = None,
    most: int | None = None,
    step: Callable[[str], None] = lambda _: None,
) -> Answers:
    """Ask the base once, and every variant, about the rows of some splits that have a target.

    Args:
        generate: for tasks that write text, also generate and compare with the targets.
        most: the most rows of a split, evenly spread over it; None: all.
        step: told what is asked now.

    Raises `BaseMismatch` for pairs on different bases, `InputError` for a split that does not exist.
    """
    first = same_base(pairs)
    found = Answers(task, list(pairs), {})
    probe: Probe | None = None
    if first.base.new_names and task.kind in ("classification", "regression") and "train" in task.splits:
        step("linear probe of the base")
        probe = Probe(Reader(first, task, max_length))
    for name in splits:
        split = task.split(name)
        rows, left_out = scorable(task, split)
        if not len(rows):
            found.skipped[name] = f"none of its {left_out} rows has a label of this task"
            continue
        if left_out:
            found.skipped[name] = f"{left_out} rows without a label of this task are left out"
        total, rows = len(rows), spread(rows, most)
        sides: dict[str, Side] = {}
        if probe is not None:
            step(f"{name}: {PROBE}")
            sides[PROBE] = measured(task, rows, probe.outputs(rows))
        elif not first.base.new_names:
            step(f"{name}: {BASE}")
            with first.off():
                sides[BASE] = ask(Reader(first, task, max_length), rows, generate)
        for label, pair in pairs.items():
            step(f"{name}: {label}")
            sides[label] = ask(Reader(pair, task, max_length), rows, generate)
        base = next((side for side in (PROBE, BASE) if side in sides), None)
        found.splits[name] = SplitAnswers(rows, total, sides, base)
    return found


def scorable(task: Task, split: Split) -> tuple[Split, int]:
    """The rows of a split that have a target, and how many have none."""
    if task.label is None:
        return split, 0
    rows = [i for i, row in enumerate(split) if task.target(row) is not None]
    return split.select(rows), len(split) - len(rows)


def spread(split: Split, most: int | None) -> Split:
    """At most so many rows, evenly spread over the split."""
    return split if most is None or len(split) <= most else split.select(evenly(len(split), most))


def evenly(size: int, most: int | None) -> list[int]:
    """The places of at most so many of `size` rows, evenly spread."""
    return list(range(size)) if most is None or size <= most else [i * size // most for i in range(most)]


def ask(reader: Reader, rows: Split, generate: bool = False) -> Side:
    """Answers and metrics of the side of a pair that is on."""
    if reader.ranks_labels:
        return measured(reader.task, rows, predict.label_log_probs(reader, rows))
    if reader.task.kind not in ("lm", "seq2seq"):
        return measured(reader.task, rows, predict.head_outputs(reader, rows))
    values, items = measures.tokens(*predict.token_losses(reader, rows))
    if generate:
        if reader.task.label is None:
            raise DataError(f"{reader.task.name}: there is no target column to compare generated texts with")
        targets = [str(reader.task.target(row)) for row in rows]
        more, more_items = measures.texts(predict.generated(reader, rows), targets)
        values, items = values | more, items | more_items
    return Side(None, values, items)


def measured(task: Task, rows: Split, outputs: np.ndarray) -> Side:
    """The metrics of a head's or ranker's outputs [N, C]."""
    targets: list[Any] = [task.target(row) for row in rows]
    wanted = len(task.labels) if task.kind in ("classification", "multilabel") else 1
    if outputs.shape[1] != wanted:
        raise InputError(
            f"{task.name}: the task has {wanted} {'labels' if wanted > 1 else 'number a row'}, the model's head "
            f"{outputs.shape[1]} outputs; take the task that the model was tuned for"
        )
    if task.kind == "classification":
        return Side(outputs, *measures.classification(outputs, np.array(targets)))
    if task.kind == "multilabel":
        truth = np.zeros((len(rows), len(task.labels)))
        for i, indices in enumerate(targets):
            truth[i, indices] = 1
        return Side(outputs, *measures.multilabel(outputs, truth))
    return Side(outputs, *measures.regression(outputs[:, 0], np.array(targets, dtype=float)))
