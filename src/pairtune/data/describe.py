"""A task as a text table: what was read, what was guessed, what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pairtune.data.columns import profile
from pairtune.data.labels import CLASS_KINDS, parsed

if TYPE_CHECKING:
    from pairtune.data.task import Task

_SHOWN = 12  # labels, the most and the least frequent


def describe(task: Task) -> str:
    """Kind, columns with their guesses, splits with sizes and files, label counts of train, notes."""
    head = f"{task.name}: {task.kind}" + (f", {len(task.labels)} labels" if task.labels else "")
    parts = [head, "", *table(_columns(task)), "", *table(_splits(task))]
    counts = label_counts(task)
    if counts:
        parts += ["", f"labels of {next(iter(task.splits))}: {_frequent(counts)}"]
    if task.guessed:
        why = "; ".join(f"{what}: {reason}" for what, reason in task.guessed.items())
        parts += ["", f"guessed ({why}); to say otherwise: text=..., label=..., kind=..."]
    return "\n".join([*parts, *(f"note: {note}" for note in task.notes)])


def label_counts(task: Task, split: str | None = None) -> Counter[str]:
    """How often each label of a class task occurs in a split (train, or the first), in the order of the labels."""
    if task.kind not in CLASS_KINDS or task.label is None:
        return Counter()
    name = split or ("train" if "train" in task.splits else next(iter(task.splits)))
    counts: Counter[str] = Counter(dict.fromkeys(task.labels, 0))
    for label in parsed(task.splits[name], task.label, task.kind, optional=name.startswith("ood/")):
        counts.update([label] if isinstance(label, str) else label or ())
    return counts


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns; numbers, but for the first column, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i and cell.replace(",", "").replace(".", "").isdigit() else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def _columns(task: Task) -> list[list[str]]:
    role = {"lm": "completion", "seq2seq": "target"}.get(task.kind, "label")
    rows = [["column", "role", "type", "characters", "different", "example"]]
    first = task.splits.get("train") or next(iter(task.splits.values()))
    for column in profile(first):
        used = task.modality if column.name in task.text else role if column.name == task.label else "-"
        what = "text" if column.name in task.text else "label"
        guessed = " (guessed)" if what in task.guessed and used != "-" else ""
        example = repr(first[0].get(column.name, ""))
        length = f"{column.length:.0f}" if column.length else "-"
        cut = example if len(example) <= 40 else example[:37] + "..."
        rows.append([column.name, used + guessed, column.type, length, f"{column.distinct:,}", cut])
    return rows


def _splits(task: Task) -> list[list[str]]:
    rows = [["split", "rows", "from"]]
    return rows + [[name, f"{len(split):,}", ", ".join(split.files)] for name, split in task.splits.items()]


def _frequent(counts: Counter[str]) -> str:
    ranked = counts.most_common()
    if len(ranked) <= _SHOWN:
        return ", ".join(f"{name} {count:,}" for name, count in ranked)
    most, least = ranked[: _SHOWN // 2], ranked[-_SHOWN // 2 :]
    return ", ".join(f"{n} {c:,}" for n, c in most) + ", ..., " + ", ".join(f"{n} {c:,}" for n, c in least)
