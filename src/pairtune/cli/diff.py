"""what changed from base to variant: weights, answers, calibration, forgetting, the path between; also as a page"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pairtune.cli import frame
from pairtune.errors import InputError

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")


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
    names = _named(what)
    if html is not None:
        _check_place(html)
    root, names = _base_of(names, base)
    from pairtune.analysis import forgetting
    from pairtune.analysis.diff import diff as compare
    from pairtune.cli.eval import task_of
    from pairtune.pair.pair import Pair

    forgetting.general_task(general)  # before anything large is loaded
    loaded: dict[str, Pair] = {name: Pair.load(source, root) for name, source in names.items()}
    task = None if data is None else task_of(data, text, label, next(iter(loaded.values())))
    found = compare(loaded, task, general=general, everything=everything)
    if html is not None:
        _write(html, found.html())
    frame.emit(found.to_dict() if json else None, json, text=found)


def _named(what: list[str]) -> dict[str, str]:
    """Short names that differ → what was typed."""
    twice = next((one for i, one in enumerate(what) if one.rstrip("/") in {x.rstrip("/") for x in what[:i]}), None)
    if twice is not None:
        raise InputError(f"{twice} is named twice")
    short = [one.rstrip("/").rpartition("/")[2] or one for one in what]
    return {name if short.count(name) == 1 else one: one for name, one in zip(short, what, strict=True)}


def _base_of(names: dict[str, str], base: str | None) -> tuple[str | None, dict[str, str]]:
    """The base and the variants: with full checkpoints and no --base, what comes first is the base."""
    if base is not None:
        return base, names
    whole = {name: source for name, source in names.items() if _is_whole(source)}
    if not whole:
        return None, names
    first, *rest = names
    if first not in whole:
        one = next(iter(whole))
        raise InputError(f"{whole[one]} is a full checkpoint; name its base first (BASE FINETUNED), or with --base")
    if not rest:
        raise InputError(
            f"{names[first]} is a full checkpoint, not a pair; name a base and what was tuned from it: BASE FINETUNED"
        )
    return names[first], {name: names[name] for name in rest}


def _is_whole(source: str) -> bool:
    """Whether this is a model of its own rather than a pair or an adapter."""
    from pairtune.pair import hub
    from pairtune.pair.card import CARD_FILE

    if source.startswith("zoo:"):
        return True
    folder = hub.local_folder(source)
    if any((folder / name).exists() for name in (CARD_FILE, "adapter_config.json")):
        return False
    if not (folder / "config.json").exists():
        raise InputError(
            f"{source}: neither a pair, nor an adapter, nor a model (no pair.json, adapter_config.json or config.json)"
        )
    return True


def _check_place(html: Path) -> None:
    if html.is_dir() or not html.parent.is_dir():
        what = "is a folder" if html.is_dir() else f"cannot be written: there is no folder {html.parent}"
        raise InputError(f"{html} {what}; give the name of a file, like diff.html")


def _write(html: Path, page: str) -> None:
    from pairtune.pair.disk import hidden_beside

    place = hidden_beside(html, "partial")
    try:
        place.write_text(page, encoding="utf-8")
        place.replace(html)
    finally:
        place.unlink(missing_ok=True)
    log.info("wrote %s (%d kB)", html, html.stat().st_size // 1000)
