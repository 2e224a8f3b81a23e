"""A document as one page that needs no other file: templates and style are the package's, everything is escaped."""

from __future__ import annotations

from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pairtune.analysis import charts
from pairtune.analysis.report import Block, Cell, Document

TEMPLATES = Path(__file__).parent / "templates"
STEPS = 5  # shades of a token


def page(document: Document) -> str:
    """The document as HTML with its style inside: no script, no link, no font, no picture from elsewhere."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,  # for every template: what the data hold is never markup
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(kind=_kind, cell=_cell, drawn=charts.drawn, gaps=charts.gaps, shade=_shade)
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(
        document=document, style=style, version=version("pairtune"), today=date.today().isoformat()
    )


def _kind(block: Block) -> str:
    return type(block).__name__.lower()


def _cell(value: str | Cell) -> Cell:
    return Cell(value) if isinstance(value, str) else value


def _shade(value: float | None, texts: Any) -> str:
    """The class of a token: `up3`, `down1`; empty for what is not scored or hardly moved."""
    if value is None:
        return ""
    top = max((abs(v) for one in texts for _, v in one.tokens if v is not None), default=1.0) or 1.0
    step = round(STEPS * min(abs(value) / (0.7 * top), 1.0))
    return f"{'up' if value > 0 else 'down'}{step}" if step else ""
