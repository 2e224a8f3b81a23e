"""What is suspicious in a task's data, found before training starts: each finding with counts and places.

An error makes the result worthless (a label that is never trained on, one class only); a warning makes it doubtful.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from pairtune.data.check_labels import label_findings
from pairtune.data.findings import SHOWN, Finding, counted
from pairtune.data.labels import parsed
from pairtune.data.media import Media, plain
from pairtune.data.split import Split
from pairtune.data.task import Task
from pairtune.pair.modality import MODALITIES

SMALL = {"train": 16, "validation": 30, "test": 30}  # rows; below, a metric moves in steps of more than 3 %


def check(task: Task) -> list[Finding]:
    """Everything that is suspicious in a task, errors first. Reads every row a few times; changes nothing."""
    keys = {name: _keys(task, split) for name, split in task.splits.items()}
    found = [*_sizes(task), *_empty(task), *_overlaps(task, keys), *_conflicts(task, keys), *label_findings(task)]
    return sorted(found, key=lambda finding: finding.severity != "error")


def report(findings: Sequence[Finding]) -> str:
    """The findings as text, their places indented below each."""
    return "\n".join(map(str, findings)) or "nothing suspicious was found in the data"


def _sizes(task: Task) -> Iterator[Finding]:
    if "train" not in task.splits:
        yield Finding(
            "error", f"there is no train split (splits: {', '.join(task.splits)}); this task can only be scored"
        )
    for name, split in task.splits.items():
        if len(split) < SMALL.get(name, SMALL["test"]):
            why = (
                f"a metric on it moves in steps of {100 / len(split):.1f} %"
                if name != "train"
                else "too few to learn from"
            )
            yield Finding("warning", f"{name} has only {len(split)} rows: {why}")


def _empty(task: Task) -> Iterator[Finding]:
    """Texts, and texts to write, that are empty or white space."""
    for name, split in task.splits.items():
        rows = list(zip(*map(split.values, task.text), strict=True))
        empty = [i for i, texts in enumerate(rows) if not any(_filled(text) for text in texts)]
        if empty:
            every = len(empty) == len(split)
            yield Finding(
                "error" if every else "warning", *counted(split, empty, name, "texts", "is empty", "are empty")
            )
        if task.kind in ("lm", "seq2seq") and task.label is not None:
            ood = name.startswith("ood/")
            targets = parsed(split, task.label, task.kind, optional=ood)
            none = [i for i, target in enumerate(targets) if target is not None and not target.strip()]
            if none:
                yield Finding("warning", *counted(split, none, name, "texts to write", "is empty", "are empty"))


def _overlaps(task: Task, keys: dict[str, list[bytes]]) -> Iterator[Finding]:
    """Texts of train that are in another split as well, word for word, and repetitions within train."""
    train = task.splits.get("train")
    if train is None:
        return
    first: dict[bytes, int] = {}
    again = [i for i, key in enumerate(keys["train"]) if first.setdefault(key, i) != i]
    for name, split in task.splits.items():
        if name == "train":
            continue
        same = [i for i, key in enumerate(keys[name]) if key in first]
        if same:
            message, _ = counted(split, same, name, _many(task), "is also in train", "are also in train")
            places = (f"{split.where(i)} = {train.where(first[keys[name][i]])}" for i in same[:SHOWN])
            yield Finding("warning", message, tuple(places))
    if again:
        message, _ = counted(train, again, "train", _many(task), "is a repetition", "are repetitions")
        places = (f"{train.where(i)} = {train.where(first[keys['train'][i]])}" for i in again[:SHOWN])
        yield Finding("warning", message, tuple(places))


def _conflicts(task: Task, keys: dict[str, list[bytes]]) -> Iterator[Finding]:
    """The same text with two labels, in one split or in two."""
    if task.label is None or task.kind in ("lm", "seq2seq"):
        return
    first: dict[bytes, tuple[str, int, str]] = {}
    places, count = [], 0
    for name, split in task.splits.items():
        labels = parsed(split, task.label, task.kind, optional=name.startswith("ood/"))
        for i, label in enumerate(labels):
            if label is None:
                continue
            said = json.dumps(sorted(label) if isinstance(label, list) else label)
            where, j, other = first.setdefault(keys[name][i], (name, i, said))
            if other != said:
                count += 1
                if len(places) < SHOWN:
                    places.append(f"{task.splits[where].where(j)}: {other}, {split.where(i)}: {said}")
    if count:
        one = MODALITIES[task.modality].one
        same = f"{one} has" if count == 1 else f"{_many(task)} have"
        yield Finding("warning", f"{count:,} {same} another label than the same {one} elsewhere", tuple(places))


def _keys(task: Task, split: Split) -> list[bytes]:
    """A short hash of each row's text, or of its file's content."""
    rows = zip(*map(split.values, task.text), strict=True)
    return [hashlib.blake2b(json.dumps(row, default=plain).encode(), digest_size=16).digest() for row in rows]


def _many(task: Task) -> str:
    return MODALITIES[task.modality].many


def _filled(text: Any) -> bool:
    if isinstance(text, Media):
        return True  # that a file is not empty was seen when the task was loaded
    return bool(text.strip()) if isinstance(text, str) else any(str(m.get("content") or "").strip() for m in text)
