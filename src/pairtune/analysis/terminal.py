"""A document on the terminal: readable at 80 columns, with colour where there is any, and never by colour alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table as RichTable
from rich.text import Text

from pairtune.analysis.report import Block, Cell, Document, Forest, Items, Lines, Section, Table, Tokens
from pairtune.pair.paired import Difference

TONES = {"good": "green", "bad": "red", "quiet": "dim"}
BAR, AXIS = 8, 31  # characters of a bar, and of the axis of differences
LINES = 2  # lines of an item's text


def draw(document: Document) -> Group:
    """Everything but what only a page can show."""
    parts: list[RenderableType] = []
    if document.facts:
        parts += [Text(document.title, style="bold"), ""]
        parts += [Text.assemble((f"{name}: ", "dim"), words) for name, words in document.facts]
    for section in document.sections:
        parts += [*([""] if parts else []), *_section(section)]
    return Group(*parts)


def _section(section: Section) -> Iterator[RenderableType]:
    if section.title:
        yield Rule(Text(section.title, style="bold"), align="left", style="dim")
    if section.lead:
        yield Text(section.lead)
    for i, block in enumerate(section.blocks):
        if i or section.title:
            yield ""
        yield from _block(block)
    if section.meanings:
        yield ""
        for name, words in section.meanings.items():
            yield Padding(Text.assemble((f"{name}: ", "dim bold"), (words, "dim")), (0, 0, 0, 2))


def _block(block: Block) -> Iterator[RenderableType]:
    if isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, Lines):
        if block.unit:  # its points say little as a table
            yield Text(f"{block.title}: drawn on the page (--html), listed in --json", style="dim")
        elif block.numbers is not None:
            yield from _table(block.numbers)
    elif isinstance(block, Forest):
        yield from _forest(block)
    elif isinstance(block, Tokens):
        yield from _tokens(block)
    elif isinstance(block, Items):
        yield from _items(block)
    else:
        yield Text(block.text, style="yellow" if block.missing else "dim")


def _table(block: Table) -> Iterator[RenderableType]:
    yield Text(block.caption, style="italic")
    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    barred = {
        i: 0 for row in block.rows for i, cell in enumerate(row) if isinstance(cell, Cell) and cell.share is not None
    }
    for i in barred:  # rich strips what would align a number before its bar, so that this is done here
        barred[i] = max(len(_plain(row[i])) for row in block.rows)
    for i, name in enumerate(block.head):
        right = i in block.numeric and i not in barred
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in block.rows:
        table.add_row(*(_cell(cell, barred.get(i, 0)) for i, cell in enumerate(row)))
    yield table
    if block.more:
        yield Text(f"… and {block.more:,} more (--json has all)", style="dim")


def _plain(cell: str | Cell) -> str:
    return cell if isinstance(cell, str) else cell.text


def _cell(cell: str | Cell, width: int) -> Text:
    text = Text(_plain(cell).rjust(width), style=TONES.get(getattr(cell, "tone", None) or "", ""))
    if isinstance(cell, Cell) and cell.share:
        text.append(" " + "█" * max(1, round(BAR * cell.share)), style="cyan")
    return text


def _forest(block: Forest) -> Iterator[RenderableType]:
    """Each difference as `|----o----|` on one common axis with its zero."""
    yield Text(block.title, style="italic")
    ends = [0.0, *(value for _, *values in block.rows for value in values)]
    low, high = min(ends), max(ends)
    width = (high - low) or 1.0

    def place(value: float) -> int:
        return round((value - low) / width * (AXIS - 1))

    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for label, mean, start, end in block.rows:
        axis = [" "] * AXIS
        for i in range(place(start), place(end) + 1):
            axis[i] = "─"
        axis[place(0.0)] = "┼" if axis[place(0.0)] == "─" else "┊"
        axis[place(mean)] = "●"
        tone = Difference(mean, start, end).tone(block.rising)
        style = TONES[tone] if tone else "dim"
        table.add_row(Text(label), Text("".join(axis), style=style), Text(f"{mean:+.3g}"))
    yield table
    yield Text(f"┊ or ┼ is no change; {block.x_label}", style="dim")


def _tokens(block: Tokens) -> Iterator[RenderableType]:
    yield Text(block.caption, style="italic")
    values = [abs(value) for one in block.texts for _, value in one.tokens if value is not None]
    top = max(values, default=1.0) or 1.0
    for one in block.texts:
        yield Text(one.label, style="dim")
        text = Text()
        for token, value in one.tokens:
            text.append(" ".join(token.splitlines()) if token.strip() else token.replace("\n", " "), _shade(value, top))
        yield Padding(text, (0, 0, 0, 2))
        yield Padding(Text(one.extremes(), style="dim"), (0, 0, 0, 2))
    yield Text(f"green, +: {block.up}; red, −: {block.down}", style="dim")


def _shade(value: float | None, top: float) -> str:
    if value is None or abs(value) < 0.15 * top:
        return ""
    strong = abs(value) >= 0.5 * top
    return ("bold " if strong else "") + ("green" if value > 0 else "red")


def _items(block: Items) -> Iterator[RenderableType]:
    yield Text(block.caption, style="italic")
    for item in block.items:
        yield Text("• " + _short(item.text), overflow="fold")
        said: Sequence[tuple[str, str]] = [
            piece
            for name, words, tone in item.says
            for piece in ((f"{name} ", "dim"), (_short(words, 60), TONES.get(tone or "", "")), ("   ", ""))
        ]
        yield Padding(Text.assemble(*said), (0, 0, 0, 2))
    if block.more:
        yield Text(f"… and {block.more:,} more (--json has all)", style="dim")


def _short(text: str, most: int = 76 * LINES) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
