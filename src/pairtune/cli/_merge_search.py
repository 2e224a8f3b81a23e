"""`pairtune merge --search`: what was named is loaded, and the report printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pairtune.cli import frame
from pairtune.cli._pairs import check_place, named, write_page
from pairtune.errors import InputError


def search_merges(models: list[str], base: str | None, out: Path, own: dict[str, Any], json: bool) -> None:
    """Search, and print what was found. `own`: the flags of the search by name, None where they were not given."""
    names = named(models)
    html = own.pop("html")
    if html is not None:
        check_place(html)
    for name in ("rows", "trials", "jobs"):
        if own[name] is not None and own[name] < 1:
            raise InputError(f"--{name}: expected 1 or more, found {own[name]}")
    from pairtune.cli.eval import task_of
    from pairtune.pair.pair import Pair
    from pairtune.recipes import searching

    first = Pair.load(next(iter(names.values())), base)
    sources = named(own.pop("data"))
    tasks = {name: task_of(source, None, None, first) for name, source in sources.items()}
    options = {name: value for name, value in own.items() if value is not None}
    if "minutes" in options:
        options.setdefault("trials", None)
    found = searching.search_merges(names, tasks, first, out, base=base, **options)
    if html is not None:
        write_page(html, found.html())
    frame.emit(found.to_dict() if json else None, json, text=found)
