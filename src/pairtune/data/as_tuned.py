"""A task as a pair that was tuned on it reads it: the same columns, the labels in the same order."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")


def task_for(pair: Pair, data: str, text: list[str] | None = None, label: str | None = None) -> Task:
    """The task, with the columns and labels that the pair was tuned with where nobody names others.

    The outputs of a checkpoint's own head stand in the order of its own label names, where the data use these names.
    Raises as `Task.load`.
    """
    from pairtune.data.task import Task

    known = (pair.card.task or {}) if pair.card else {}
    given = {"text": text or None, "label": label}
    if known and text is None and label is None:
        given = {"kind": known["kind"], "text": known["text"], "label": known["label"]}
        if known["labels"]:
            given["labels"] = known["labels"]
    task = Task.load(data, **{key: value for key, value in given.items() if value is not None})
    names = pair.base.labels
    if known or not names or not task.labels or names == task.labels:
        return task
    if set(task.labels) <= set(names):
        return replace(task, labels=list(names), labels_given=True)
    log.warning(
        "the checkpoint calls its labels %s, the data %s; they are taken to stand in one order",
        ", ".join(names[:5]),
        ", ".join(task.labels[:5]),
    )
    return task
