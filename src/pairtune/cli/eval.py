"""metrics of a base and of any number of variants on the same items, with paired intervals"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pairtune.cli import frame
from pairtune.errors import InputError

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair


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
    """The task as the pair was tuned on it; see `data.as_tuned`."""
    from pairtune.data.as_tuned import task_for

    return task_for(pair, data, text, label)
