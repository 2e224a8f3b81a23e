"""the path from base to variant, or between two variants: best point, gain out of distribution, barriers"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pairtune.cli import frame
from pairtune.cli._pairs import base_of, check_place, named, write_page
from pairtune.errors import InputError


def sweep(
    what: Annotated[
        list[str],
        typer.Argument(metavar="PAIR [PAIR2] | BASE FINETUNED", help="Folders, hub ids or zoo names."),
    ],
    data: Annotated[
        str, typer.Option(help="A task: folder, file, hub id, or YAML; alpha is picked on its validation.")
    ],
    save: Annotated[
        Path | None, typer.Option(help="Keep the picked point as a pair in this folder, which must not exist yet.")
    ] = None,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Also which layers are sharp or lag behind, and whether thinning helps (slow)."),
    ] = False,
    base: Annotated[str | None, typer.Option(help="The base, where the pairs do not name it.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="The task's text column(s), where the guess is wrong.")] = None,
    label: Annotated[str | None, typer.Option(help="The task's label column, where the guess is wrong.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the report as one page that needs no network.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Score every row instead of a sample of each split.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Measure base + alpha · delta from 0 to 1 on validation, test and every OOD split; or go from one pair to another.

    Alpha is picked on ID validation alone; what would have been best out of distribution is shown apart.
    """
    names = named(what)
    if html is not None:
        check_place(html)
    if save is not None and save.exists() and (not save.is_dir() or any(save.iterdir())):
        raise InputError(f"{save}: exists and is not an empty folder; choose another name")
    root, names = base_of(names, base)
    if len(names) > 2:
        raise InputError(f"a path has two ends, and {len(names)} variants are named; name one, or two")
    from pairtune.analysis.chosen import keep
    from pairtune.analysis.sweep import sweep as measure
    from pairtune.cli.eval import task_of
    from pairtune.pair.twin import load_pairs

    loaded = load_pairs(names, root)
    task = task_of(data, text, label, list(loaded.values())[-1])
    found = measure(loaded, task, layers=layers, everything=everything)
    if html is not None:
        write_page(html, found.html())
    kept = None if save is None else keep(loaded, task, found, save, [names[name] for name in loaded])
    frame.emit(found.to_dict() | ({"saved": kept} if kept else {}) if json else None, json, text=found)
