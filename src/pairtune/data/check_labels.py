"""What is suspicious in a task's labels: missing in a split, never trained on, all the same, far from balanced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pairtune.data.describe import label_counts
from pairtune.data.findings import SHOWN, Finding, counted
from pairtune.data.labels import CLASS_KINDS, parsed
from pairtune.data.split import Split
from pairtune.data.task import Task
from pairtune.registry import suggest

RATIO = 100  # most to least frequent class


def label_findings(task: Task) -> Iterator[Finding]:
    """Findings about the labels of a class or regression task."""
    if task.kind == "regression":
        for name, split in task.splits.items():
            values = {
                v for v in parsed(split, str(task.label), task.kind, optional=name.startswith("ood/")) if v is not None
            }
            if len(values) == 1:
                severity = "error" if name == "train" else "warning"
                yield Finding(severity, f"every label of {name} is {values.pop():g}: there is nothing to tell apart")
    if task.kind not in CLASS_KINDS:
        return
    counts = {name: label_counts(task, name) for name in task.splits}
    train = counts.get("train")
    for name, split in task.splits.items():
        yield from _unknown(task, name, split) if name.startswith("ood/") else ()
        used = [label for label in task.labels if counts[name][label]]
        if len(used) == 1 and task.kind == "classification" and not name.startswith("ood/"):
            severity = "error" if name == "train" else "warning"
            yield Finding(severity, f"every row of {name} has the label {used[0]!r}: there is nothing to tell apart")
        if train is None or name == "train":
            continue
        new = [label for label in used if not train[label]]
        if new:
            near = suggest(new[0], [label for label in task.labels if train[label]]) if len(new) == 1 else ""
            severity = "warning" if task.labels_given or name.startswith("ood/") else "error"
            yield Finding(severity, f"{_named(new)} in {name} but never in train{near}", _places(task, split, new))
        gone = [label for label in task.labels if train[label] and not counts[name][label]]
        if gone and not name.startswith("ood/"):
            yield Finding("warning", f"{_named(gone)} in train but never in {name}")
    if train:
        yield from _imbalance(task, train)


def _imbalance(task: Task, counts: Any) -> Iterator[Finding]:
    unused = [label for label in task.labels if not counts[label]]
    if unused and task.labels_given:
        yield Finding("warning", f"{_named(unused)} in the label list but never in train")
    used = [(label, n) for label, n in counts.most_common() if n]
    if len(used) > 1 and used[0][1] >= RATIO * used[-1][1]:
        (most, n), (least, m) = used[0], used[-1]
        yield Finding("warning", f"extreme imbalance in train: {most!r} has {n:,} rows, {least!r} has {m:,}")


def _unknown(task: Task, name: str, split: Split) -> Iterator[Finding]:
    """Labels of an OOD split that the task does not have."""
    if task.label not in split.columns:
        return
    known, other, rows = set(task.labels), {}, []
    for i, label in enumerate(parsed(split, str(task.label), task.kind, optional=True)):
        strange = [one for one in ([label] if isinstance(label, str) else label or ()) if one not in known]
        if strange:
            rows.append(i)
            other.update(dict.fromkeys(strange))
    if rows:
        message, places = counted(split, rows, name, "rows", "has a label", "have labels")
        yield Finding(
            "warning",
            f"{message} that the task does not have: {', '.join(list(other)[:SHOWN])}; such rows count as unlabelled",
            places,
        )


def _places(task: Task, split: Split, labels: Sequence[str]) -> tuple[str, ...]:
    """Where these labels stand first."""
    left, places = set(labels), []
    for i, label in enumerate(parsed(split, str(task.label), task.kind, optional=True)):
        here = left.intersection([label] if isinstance(label, str) else label or ())
        if here:
            left -= here
            places.append(f"{split.where(i)}: {', '.join(sorted(here))}")
        if not left or len(places) == SHOWN:
            break
    return tuple(places)


def _named(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:SHOWN]) + (", ..." if len(labels) > SHOWN else "")
    return f"the label {shown} is" if len(labels) == 1 else f"{len(labels)} labels ({shown}) are"
