"""What every analysis hands back: its numbers, and one description of how they are shown, drawn three ways.

A report is a dataclass of plain numbers (that is its JSON) which can describe itself as a `Document`: sections of
sentences, tables and charts. The terminal (`terminal.py`) and the page (`page.py`) draw documents and know no analysis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import Any, ClassVar


@dataclass(frozen=True)
class Cell:
    """A table's cell that is more than text.

    Attributes:
        share: 0 … 1, drawn as a bar behind or beside the text; the text says the number.
        tone: "good", "bad" or "quiet"; never the only carrier of a meaning.
    """

    text: str
    share: float | None = None
    tone: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows under a head. Columns that hold numbers are named in `numeric`, by their place, and stand on the right.

    Attributes:
        more: rows that are left out here and stand in the JSON.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    numeric: Sequence[int] = ()
    more: int = 0


@dataclass(frozen=True)
class Series:
    """One line of a chart. `low` and `high` are an interval around `y`."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Lines:
    """A line chart, with the numbers behind it.

    Attributes:
        alt: what one sees, in words.
        log: the y axis is logarithmic. unit: both axes go from 0 to 1 and the diagonal is drawn.
        marks: (x, word) of places that are marked on the x axis.
        numbers: the same as a table; the terminal shows it in the chart's place.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    alt: str
    numbers: Table | None = None
    log: bool = False
    unit: bool = False
    marks: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True)
class Forest:
    """Differences with their intervals around a line at zero: rows of (label, middle, low, high)."""

    title: str
    x_label: str
    rows: Sequence[tuple[str, float, float, float]]
    alt: str
    rising: bool = True  # whether more is better


@dataclass(frozen=True)
class TokenText:
    """One text whose tokens have values (None: not scored), with what is said above it."""

    label: str
    tokens: Sequence[tuple[str, float | None]]

    def extremes(self, most: int = 4) -> str:
        """`printer +2.3, …; haiku -4.1, …`: the tokens at either end, for whoever does not see the colours."""
        scored = [(value, token.strip()) for token, value in self.tokens if value is not None and token.strip()]
        ups = [one for one in sorted(scored, reverse=True)[:most] if one[0] > 0]
        downs = [one for one in sorted(scored)[:most] if one[0] < 0]
        said = [", ".join(f"{token} {value:+.1f}" for value, token in ends) for ends in (ups, downs)]
        return "; ".join(part for part in said if part)


@dataclass(frozen=True)
class Tokens:
    """Texts coloured token by token: `up` and `down` say what a positive and a negative value mean."""

    caption: str
    texts: Sequence[TokenText]
    up: str
    down: str


@dataclass(frozen=True)
class Item:
    """One row of the data with what is said about it: (name, words, tone) in order."""

    text: str
    says: Sequence[tuple[str, str, str | None]]


@dataclass(frozen=True)
class Items:
    """A list of rows of the data. `more`: how many others there are."""

    caption: str
    items: Sequence[Item]
    more: int = 0


@dataclass(frozen=True)
class Note:
    """A sentence: a sample's size, or what cannot be said here and why (`missing`)."""

    text: str
    missing: bool = False


Block = Table | Lines | Forest | Tokens | Items | Note


@dataclass(frozen=True)
class Section:
    """One question and its answer.

    Attributes:
        lead: the answer in one or two sentences.
        meanings: number → what it means, one plain sentence each.
    """

    name: str
    title: str
    lead: str
    blocks: Sequence[Block]
    meanings: Mapping[str, str] = field(default_factory=dict)


def titled(words: str, name: str, several: bool) -> str:
    """A caption or note: the variant's name stands before it where there are several."""
    return f"{name}: {words}" if several else words[:1].upper() + words[1:]


@dataclass(frozen=True)
class Figure:
    """A number for the top of a page: what it is, the number, and what stands beneath it."""

    label: str
    value: str
    below: str
    tone: str | None = None


@dataclass(frozen=True)
class Document:
    """A whole report. `facts` are (name, words) about what was compared."""

    title: str
    facts: Sequence[tuple[str, str]]
    figures: Sequence[Figure]
    sections: Sequence[Section]


class Report:
    """The base of every report; a subclass is a dataclass and says how it is shown.

    `print(report)` and rich draw its tables, `to_dict()` is its JSON, `html()` one self-contained page.
    """

    schema: ClassVar[str]  # name/version of the JSON; the version grows when a key changes its meaning or goes

    def document(self) -> Document:
        """The report as sections of sentences, tables and charts."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The report's numbers under their names, with schema and version first; arrays and dataclasses inside."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]
        return {"schema": self.schema, "pairtune": version("pairtune"), **own}

    def html(self) -> str:
        """One page that needs no other file."""
        from pairtune.analysis.page import page

        return page(self.document())

    def __rich__(self) -> Any:
        from pairtune.analysis.terminal import draw

        return draw(self.document())

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=100, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get()
