"""metrics of a base and of any number of variants on the same items, with paired intervals"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from pairtune.cli import frame
from pairtune.errors import InputError

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")


def eval(
    pairs: Annotated[list[str], typer.Argument(help="Pairs' folders (or PEFT folders, or checkpoints with --base).")],
    data: Annotated[str, typer.Option(help="A task: folder, file, hub id, or YAML.")],
    split: Annotated[list[str] | None, typer.Option(help="Splits; by default test and every OOD split.")] = None,
    base: Annotated[str | None, typer.Option(help="The base, where the pairs do not name it.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="The task's text column(s), where the guess is wrong.")] = None,
    label: Annotated[str | None, typer.Option(help="The task's label column, where the guess is wrong.")] = None,
    generate: Annotated[bool, typer.Option(help="Write texts too, and compare them with the targets.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Evaluate base and variants over the same items; differences come with their 95 % intervals and the flips."""
    from pairtune.analysis.evaluate import evaluate
    from pairtune.pair.twin import load_pairs

    if len(set(pairs)) < len(pairs):
        raise InputError("a pair is named twice")
    loaded = load_pairs({name: name for name in pairs}, base)
    task = task_of(data, text, label, next(iter(loaded.values())))
    found = evaluate(loaded, task, split, generate=generate)
    frame.emit(found.to_dict() if json else None, json, text=found)


def task_of(data: str, text: list[str] | None, label: str | None, pair: Pair) -> Task:
    """The task, with the columns and labels that the pair was tuned with where nobody names others.

    The outputs of a checkpoint's own head stand in the order of its own label names, where the data use these names.
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
