"""A report's three faces: the page, the terminal, the JSON."""

import json
import re

from rich.console import Console

import pairtune
from pairtune.analysis.page import page
from pairtune.analysis.path import ALPHAS
from pairtune.analysis.report import (
    Cell,
    Document,
    Figure,
    Forest,
    Item,
    Items,
    Lines,
    Note,
    Section,
    Series,
    Table,
    Tokens,
    TokenText,
)
from pairtune.cli.frame import plain

HOSTILE = "<script>alert('cat')</script> & the cat sat"
GENERAL = ["the old man sat by the river", "please open the account"]


def test_the_page_holds_everything_and_runs_nothing(found):
    page = found.html()
    assert not re.search(r"https?:|<script|<link|<img|<iframe|@import|url\(|\son\w+=", page, re.IGNORECASE)
    assert all(reference.startswith("#") for reference in re.findall(r'(?:href|src)="([^"]*)"', page))
    targets = set(re.findall(r'id="([^"]+)"', page))
    assert {reference[1:] for reference in re.findall(r'href="(#[^"]+)"', page)} <= targets
    assert page.count("<svg viewBox") == page.count('role="img" aria-labelledby') + page.count('aria-hidden="true"')


def test_everything_that_comes_from_data_is_escaped():
    table = Table(HOSTILE, (HOSTILE, HOSTILE), [(HOSTILE, Cell(HOSTILE, 0.5))], numeric=(1,))
    blocks = [
        table,
        Lines(
            HOSTILE, HOSTILE, HOSTILE, [Series(HOSTILE, [0.0, 1.0], [0.0, 1.0])], HOSTILE, table, marks=[(0, HOSTILE)]
        ),
        Forest(HOSTILE, HOSTILE, [(HOSTILE, 0.1, 0.0, 0.2)], HOSTILE),
        Tokens(HOSTILE, [TokenText(HOSTILE, [(HOSTILE, 1.0), (HOSTILE, None)])], HOSTILE, HOSTILE),
        Items(HOSTILE, [Item(HOSTILE, [(HOSTILE, HOSTILE, "good")])]),
        Note(HOSTILE, missing=True),
    ]
    section = Section("one", HOSTILE, HOSTILE, blocks, {HOSTILE: HOSTILE})
    made = page(Document(HOSTILE, [(HOSTILE, HOSTILE)], [Figure(HOSTILE, HOSTILE, HOSTILE)], [section]))
    assert "<script" not in made
    assert made.count("&lt;script&gt;alert(&#39;cat&#39;)&lt;/script&gt; &amp; the cat sat") >= 30


def test_names_are_escaped_too(pair, task):
    page = pairtune.diff({"<b>bold</b>": pair}, task, general=GENERAL).html()
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page


def test_the_terminal_is_readable_at_80_columns(found):
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(found)
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    for words in ("effective rank", "What it answers", "Calibration", "fixed", "What it forgot", "alpha", "test"):
        assert any(words in line for line in lines), words
    assert str(found).splitlines()[0] == lines[0]


def test_json_is_whole_and_versioned(found):
    read = json.loads(json.dumps(plain(found.to_dict()), allow_nan=False))
    assert read["schema"] == "pairtune.diff/1"
    assert read["path"]["alphas"] == list(ALPHAS)
    assert read["weights"]["variants"]["variant"]["layers"]["model.layers.0"]["norm"] > 0
    assert read["flips"]["variants"]["variant"]["test"]["better"][0]["text"]
