"""Write the pages under docs/ that the code already knows: run by `make docs`, checked by tests/test_ground.py.

`docs/methods/<room>.md` is made from the methods' own docstrings and settings, read without importing them;
`docs/reproductions.md` from the stored results of the reproductions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from pairtune import reading, registry
from pairtune.cli.methods import contract, default_of, kind, words
from pairtune.registry import MethodInfo

HERE = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py from the code; `make docs` renews it. -->"


def pages() -> Iterator[tuple[Path, str]]:
    """Every generated page: its path under docs/ and its text."""
    for room in registry.rooms():
        known = registry.methods(room)
        if known:
            yield Path("methods") / f"{room}.md", room_page(room, list(known.values()))
    if any((HERE / "reproductions").glob("*.json")):
        from pairtune.reproductions import pages as reproductions

        yield Path("reproductions.md"), reproductions.page(HERE)


def room_page(room: str, known: list[MethodInfo]) -> str:
    """One room: what it is for, a table of its methods, then a section for each."""
    about = reading.read(reading.PACKAGE / room / "__init__.py")
    head = [f"# {room.capitalize()}", "", NOTE, "", about.summary, ""]
    rows = [(f"[`{info.name}`](#{info.name})", info.summary, info.paper) for info in known]
    lines = [*head, *table(("method", "what it does", "source"), rows)]
    lines += contracts(known) if room == "tuners" else []
    for info in known:
        lines += ["", *section(info)]
    return "\n".join(lines) + "\n"


def contracts(known: list[MethodInfo]) -> list[str]:
    """What each tuner promises with its default settings; checked by tests/tuners/test_contract.py."""
    rows = []
    for info in known:
        given = contract(info)
        share = "depends" if given["trainable_share"] is None else f"{given['trainable_share']:.2g}"
        where = given["counted_on"] or ""
        yes = ["yes" if given[name] else "no" for name in ("mergeable", "scalable", "identity_at_start")]
        rows.append((f"[`{info.name}`](#{info.name})", *yes, share, where))
    head = ("tuner", "can be merged", "can be scaled", "starts as the base", "share that trains", "counted on")
    about = "What each promises with its default settings (`pairtune methods tuners --json` has the same):"
    return ["", about, "", *table(head, rows)]


def section(info: MethodInfo) -> list[str]:
    """One method: its docstring, what it declares, its settings."""
    lines = [f"## {info.name}", "", *(prose(line) for line in info.doc.rstrip().splitlines()), ""]
    declared = [f"`{name} = {words(value)}`" for name, value in info.traits.items() if not name.startswith("_")]
    if declared:
        lines += [f"Declares {', '.join(declared)}.", ""]
    rows = [(f"`{one.name}`", f"`{default_of(one, info)}`", kind(one), one.help) for one in info.settings]
    lines += table(("setting", "default", "type, range", "meaning"), rows) if rows else ["It has no settings."]
    if info.passthrough:
        lines += ["", "Further settings are passed on and checked by the method itself."]
    return lines


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A Markdown table; `|` inside a cell is escaped."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [head, *rows]]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def prose(line: str) -> str:
    """A docstring's line as Markdown: an indented one is an equation and stays, elsewhere `<` and `*` are escaped."""
    return line if line.startswith("    ") or "`" in line else line.replace("<", "&lt;").replace("*", "\\*")


def main() -> None:
    """Write what differs and remove the pages of rooms that are gone."""
    wanted = {HERE / path: text for path, text in pages()}
    for stale in set((HERE / "methods").glob("*.md")) - set(wanted):
        stale.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(HERE.parent)}", file=sys.stderr)


if __name__ == "__main__":
    main()
