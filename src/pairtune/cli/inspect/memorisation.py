"""what a variant has by heart of the texts it was tuned on; also makes training data with canaries in them"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pairtune.cli import frame
from pairtune.cli._made import check_new, write_folder
from pairtune.cli._pairs import check_place, write_page
from pairtune.errors import InputError

if TYPE_CHECKING:
    from pairtune.data.task import Task


def memorisation(
    data: Annotated[str, typer.Option(help="The task that it was tuned on, or with --make is to be tuned on.")],
    pair: Annotated[str | None, typer.Argument(help="A pair's folder; none with --make.")] = None,
    base: Annotated[str | None, typer.Option(help="The base, where the pair does not name it; with --make.")] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a passage that are given.")] = 50,
    suffix_tokens: Annotated[int, typer.Option(min=1, help="Tokens that must follow.")] = 50,
    rows: Annotated[int, typer.Option(min=1, help="Most passages of train, and of the other splits.")] = 1000,
    canaries: Annotated[str | None, typer.Option(help="The file of canaries that stand in the data.")] = None,
    make: Annotated[Path | None, typer.Option(help="Only write the task with canaries into this folder.")] = None,
    each: Annotated[int, typer.Option(min=1, help="With --make: canaries of a kind and number of repeats.")] = 10,
    seed: Annotated[int, typer.Option(help="Draws the canaries.")] = 0,
    text: Annotated[list[str] | None, typer.Option(help="The task's text column(s), where the guess is wrong.")] = None,
    label: Annotated[str | None, typer.Option(help="The task's label column, where the guess is wrong.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the report as one page that needs no network.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Ask how much of its training texts a variant continues word for word, and the base, and of texts it never saw.

    With --make FOLDER a task of plain text is written with canaries in its training rows, each put in 1 to 32 times and
    as many never: tune on FOLDER/task (pairtune tune --data FOLDER/task), then ask with --canaries
    FOLDER/canaries.jsonl.
    """
    if make is not None:
        if pair is not None or base is None:
            raise InputError("--make needs --base, whose tokens are counted, and no pair")
        _make(make, data, base, each, seed, text, json)
        return
    if pair is None:
        raise InputError("name a pair to ask, or with --make a folder to write")
    if html is not None:
        check_place(html)
    from pairtune.analysis.memorisation import measure_memorisation
    from pairtune.cli.eval import task_of
    from pairtune.data.canaries import read_canaries
    from pairtune.pair.twin import load_pairs

    planted = read_canaries(canaries) if canaries is not None else []
    loaded = load_pairs({pair: pair}, base)[pair]
    task = task_of(data, text, label, loaded)
    found = measure_memorisation(
        loaded, task, prompt=prompt_tokens, suffix=suffix_tokens, rows=rows, canaries=planted
    )  # fmt: skip
    if html is not None:
        write_page(html, found.html())
    frame.emit(found.to_dict() if json else None, json, text=found)


def _make(folder: Path, data: str, base: str, each: int, seed: int, text: list[str] | None, json: bool) -> None:
    """Write the task with canaries, and the canaries, and say what is in them."""
    check_new(folder)
    from pairtune.data.canaries import make_canaries, with_canaries
    from pairtune.data.task import Task
    from pairtune.data.tokens import Tokens
    from pairtune.pair.base import Base
    from pairtune.training.feeds import longest_input

    task = Task.load(data, text=text or None)
    column = _plain_column(task)
    loaded = Base.load(base)
    documents = [str(one) for one in task.split("train").values(column)]
    found = make_canaries(documents, Tokens(loaded.tokenizer), longest_input(loaded), each, seed)
    kept = {name: [{column: value} for value in split.values(column)] for name, split in task.splits.items()}
    kept["train"] = with_canaries(kept["train"], column, found, seed)
    files = {f"task/{name}.jsonl": split for name, split in kept.items()}
    write_folder(folder, {**files, "canaries.jsonl": [vars(one) for one in found]})
    result = {"folder": str(folder), "canaries": len(found), "training rows": len(kept["train"])}
    frame.emit(result, json, text=frame.columns(list(result.items())))


def _plain_column(task: Task) -> str:
    if task.kind != "lm" or task.label is not None or task.is_chat or len(task.text) != 1:
        raise InputError(f"{task.name}: canaries are put into plain text, and this task is {task.kind} with a target")
    return task.text[0]
