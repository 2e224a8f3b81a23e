"""which of several bases to tune for a task, before anyone tunes: scores of their frozen features, ranked"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pairtune.cli import frame
from pairtune.cli._pairs import check_place, write_page


def transferability(
    bases: Annotated[list[str], typer.Argument(help="Two or more bases: hub ids, folders, zoo names.")],
    data: Annotated[str, typer.Option(help="A task of classes or numbers; rows of its training split.")],
    rows: Annotated[int, typer.Option(min=20, help="Most rows that are read.")] = 512,
    text: Annotated[list[str] | None, typer.Option(help="The task's text column(s), where the guess is wrong.")] = None,
    label: Annotated[str | None, typer.Option(help="The task's label column, where the guess is wrong.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the halves of the rows.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Also write the report as one page that needs no network.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Rank bases for a task by a linear probe, LogME, H-score, TransRate, GBC, PARC, (N-)LEEP, NCE, ETran, TEMPLATE.

    Each base reads the same rows once, frozen. The scores order bases; they do not forecast accuracies, and say nothing
    about how to tune. The order by size stands beside them.
    """
    if html is not None:
        check_place(html)
    from pairtune.analysis.transferability.rank import rank_bases
    from pairtune.data.task import Task

    given = {"text": text or None, "label": label}
    task = Task.load(data, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    found = rank_bases(bases, task, rows=rows, seed=seed)
    if html is not None:
        write_page(html, found.html())
    frame.emit(found.to_dict() if json else None, json, text=found)
