"""what changed from base to variant: weights, answers, calibration, forgetting, the path between; also as a page"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pairtune.cli import frame
from pairtune.cli._pairs import base_of, check_place, named, write_page
from pairtune.errors import InputError


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
    deep: Annotated[
        bool, typer.Option("--deep", help="Ask what `inspect` asks as well: memorisation, knowledge, ntk (slow).")
    ] = False,
    questions: Annotated[
        str | None, typer.Option(help="With --deep: questions about the facts that it was tuned on.")
    ] = None,
    canaries: Annotated[str | None, typer.Option(help="With --deep: canaries in its training rows.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Compare a base with its variants: pairs by their folders, or a base and full checkpoints tuned from it."""
    if (questions is not None or canaries is not None) and not deep:
        raise InputError("--questions and --canaries are asked with --deep")
    if canaries is not None and data is None:
        raise InputError("--canaries stand in the training rows of a task; name it with --data")
    names = named(what)
    if html is not None:
        check_place(html)
    root, names = base_of(names, base)
    from pairtune.analysis import forgetting
    from pairtune.analysis.diff import Diff
    from pairtune.analysis.diff import diff as compare
    from pairtune.analysis.report import Report
    from pairtune.cli.eval import task_of
    from pairtune.data.canaries import read_canaries
    from pairtune.data.knowledge import Questions
    from pairtune.pair.twin import load_pairs

    if deep and len(names) > 1:
        raise InputError(f"--deep asks one variant, and there are {len(names)}: {', '.join(names)}")
    forgetting.general_task(general)  # before anything large is loaded
    asked = None if questions is None else Questions.read(questions)
    planted = [] if canaries is None else read_canaries(canaries)
    loaded = load_pairs(names, root)
    task = None if data is None else task_of(data, text, label, next(iter(loaded.values())))
    found: Report = compare(loaded, task, general=general, everything=everything)
    if deep:
        from pairtune.analysis.deep import deepened

        assert isinstance(found, Diff)
        found = deepened(found, next(iter(loaded.values())), task, asked, planted)
    if html is not None:
        write_page(html, found.html())
    frame.emit(found.to_dict() if json else None, json, text=found)
