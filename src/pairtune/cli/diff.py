"""what changed from base to variant: weights, answers, calibration, forgetting, the path between; also as a page"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pairtune.cli import frame
from pairtune.cli._pairs import base_of, check_place, named, write_page


def diff(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="PAIR [PAIR ...] | BASE FINETUNED [FINETUNED ...]", help="Folders, hub ids or zoo names."
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="A task: folder, file, hub id, or YAML; its splits are compared.")
    ] = None,
    general: Annotated[
        str, typer.Option(help="General text for forgetting: a file, or demo:general.")
    ] = "demo:general",
    base: Annotated[str | None, typer.Option(help="The base, where the pairs do not name it.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="The task's text column(s), where the guess is wrong.")] = None,
    label: Annotated[str | None, typer.Option(help="The task's label column, where the guess is wrong.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the report as one page that needs no network.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Take every row instead of a sample of each split.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Compare a base with its variants: pairs by their folders, or a base and full checkpoints tuned from it."""
    names = named(what)
    if html is not None:
        check_place(html)
    root, names = base_of(names, base)
    from pairtune.analysis import forgetting
    from pairtune.analysis.diff import diff as compare
    from pairtune.cli.eval import task_of
    from pairtune.pair.twin import load_pairs

    forgetting.general_task(general)  # before anything large is loaded
    loaded = load_pairs(names, root)
    task = None if data is None else task_of(data, text, label, next(iter(loaded.values())))
    found = compare(loaded, task, general=general, everything=everything)
    if html is not None:
        write_page(html, found.html())
    frame.emit(found.to_dict() if json else None, json, text=found)
