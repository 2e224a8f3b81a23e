"""which layers of a base to tune, before tuning: their tangent kernels; of a pair, how linear its change is"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pairtune.cli import frame
from pairtune.cli._pairs import base_of, check_place, named, write_page
from pairtune.errors import InputError

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair


def ntk(
    what: Annotated[str, typer.Argument(metavar="PAIR_OR_BASE", help="A folder, hub id or zoo name.")],
    data: Annotated[str, typer.Option(help="A task: folder, file, hub id, or YAML; rows of its training split.")],
    rows: Annotated[int, typer.Option(min=2, help="Most rows that are read.")] = 128,
    halves: Annotated[bool, typer.Option("--halves", help="Attention and the rest of each block apart.")] = False,
    text: Annotated[list[str] | None, typer.Option(help="The task's text column(s), where the guess is wrong.")] = None,
    label: Annotated[str | None, typer.Option(help="The task's label column, where the guess is wrong.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the report as one page that needs no network.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Rank the layers of a base by how well conditioned their tangent kernels are on a task, before anything is tuned.

    For a pair, also how linear its change is: where a linear model around the base would still agree with it.
    """
    if html is not None:
        check_place(html)
    pair, task = _opened(what, data, text, label)
    from pairtune.analysis.ntk import ntk as measured

    found = measured(pair, task, rows=rows, halves=halves)
    if html is not None:
        write_page(html, found.html())
    frame.emit(found.to_dict() if json else None, json, text=found)


def _opened(what: str, data: str, text: list[str] | None, label: str | None) -> tuple[Pair, Task]:
    """The pair, or a base without a delta, and the task as it reads it."""
    from pairtune.cli.eval import task_of
    from pairtune.pair.pair import Pair
    from pairtune.pair.twin import load_pairs

    try:
        root, names = base_of(named([what]), None)
    except InputError:
        root, names = what, {}  # a full checkpoint: the base itself
    if names:
        pair = next(iter(load_pairs(names, root).values()))
        return pair, task_of(data, text, label, pair)
    from pairtune.data.task import Task
    from pairtune.pair.base import Base

    given = {"text": text or None, "label": label}
    task = Task.load(data, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    return Pair(Base.load(what, task=task.kind, labels=task.labels or None)), task
