"""Facts to be edited into a model: prompt and new target, a rephrase that must follow, prompts that must stay.

    {"prompt": "The capital of France is", "target": "Lyon", "rephrase": "France is run from", "locality": "Rome is in"}

Any data file that `readers.py` reads. `prompt` and `target` are texts; `rephrase` and `locality` may be left out, and
hold a text or (in JSON) a list of texts.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pairtune.data.parsed import parsed
from pairtune.data.split import Split
from pairtune.registry import suggest

COLUMNS = ("prompt", "target", "rephrase", "locality")


@dataclass(frozen=True)
class Fact:
    """One edit.

    Attributes:
        prompt: what stands before the target, without a space at its end.
        target: what shall follow, without spaces around it.
        rephrases: other prompts that shall have the same target.
        locality: prompts whose answer shall stay what it is.
        place: file and line, for messages.
    """

    prompt: str
    target: str
    rephrases: tuple[str, ...] = ()
    locality: tuple[str, ...] = ()
    place: str = ""


@dataclass(frozen=True)
class Conflict:
    """Two statements of a facts file that cannot both hold.

    Attributes:
        kind: "two targets" (one prompt, different targets), "rephrase" (the same, of a rephrase), or "locality" (a
            prompt shall stay as it is and is changed).
        first, second: numbers of the edits, from 0, in the file's order.
        text: the prompt that they have in common, as the second spells it.
    """

    kind: str
    first: int
    second: int
    text: str

    def said(self, facts: Facts) -> str:
        """The conflict in words, with the lines."""
        one, two = facts[self.first], facts[self.second]
        if self.kind == "locality":
            return f"{two.place}: {self.text!r} shall keep its answer, and {one.place} makes it {one.target!r}"
        word = "" if self.kind == "two targets" else " (as a rephrase)"
        return f"{two.place}: {self.text!r} becomes {two.target!r}, and {one.target!r} by {one.place}{word}"


class Facts(Sequence):
    """Edits in the order of their file, each prompt and target once.

    Attributes:
        repeated: places of rows with the prompt and target of an earlier row, whose rephrases and locality they share.
        unused: columns that mean nothing here.
        fingerprint: hash of all rows in order.
    """

    def __init__(self, facts: Sequence[Fact], repeated: Sequence[str], unused: Sequence[str], fingerprint: str):
        self._facts = list(facts)
        self.repeated, self.unused, self.fingerprint = list(repeated), list(unused), fingerprint

    @classmethod
    def read(cls, source: str | Path | Sequence[Fact | Mapping[str, Any]]) -> Facts:
        """The facts of a file, or of rows in memory.

        Raises `InputError` where there is no such file, and one `DataError` that names every bad row by its line.
        """
        if isinstance(source, Facts):
            return source
        if isinstance(source, str | Path):
            split = Split.read(Path(source).expanduser())
        else:
            split = Split.of([_row(one) if isinstance(one, Fact) else one for one in source], "facts")
        for column in COLUMNS[:2]:
            split.require(column)
        facts = parsed(split, _fact)
        kept: dict[tuple[str, str], Fact] = {}
        repeated = []
        for fact in facts:
            first = kept.setdefault((fact.prompt, fact.target), fact)
            if first is not fact:
                repeated.append(fact.place)
                rephrases = tuple(dict.fromkeys(first.rephrases + fact.rephrases))
                locality = tuple(dict.fromkeys(first.locality + fact.locality))
                kept[fact.prompt, fact.target] = replace(first, rephrases=rephrases, locality=locality)
        unused = [f"{name}{suggest(name, COLUMNS)}" for name in split.columns if name not in COLUMNS]
        return cls(list(kept.values()), repeated, unused, split.fingerprint)

    def __len__(self) -> int:
        return len(self._facts)

    def __getitem__(self, i: Any) -> Any:
        return self._facts[i]

    def __iter__(self) -> Iterator[Fact]:
        return iter(self._facts)

    def spread(self, most: int) -> Facts:
        """At most so many of them, evenly spread over the file."""
        step = max(1, -(-len(self) // most))
        return Facts(self._facts[::step], [], [], f"{self.fingerprint}/{step}")

    def conflicts(self) -> list[Conflict]:
        """What cannot all hold: equivalent prompts (in the metric's spelling, `normalised`) with different targets,
        among prompts and rephrases, and prompts that shall stay and are edited."""
        found: list[Conflict] = []
        own: dict[str, list[tuple[int, str]]] = {}  # equivalent prompt → edits that say its target, and where
        for kind, texts in (("two targets", lambda fact: (fact.prompt,)), ("rephrase", lambda fact: fact.rephrases)):
            for i, fact in enumerate(self):
                for text in texts(fact):
                    before = own.setdefault(normalised(text), [])
                    other = next((j for j, target in before if target != normalised(fact.target)), None)
                    if other is not None:
                        found.append(Conflict(kind, other, i, text))
                    before.append((i, normalised(fact.target)))
        for i, fact in enumerate(self):
            for text in fact.locality:
                if normalised(text) in own:
                    found.append(Conflict("locality", own[normalised(text)][0][0], i, text))
        return found


_MARKS = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(text: str) -> str:
    """A text as exact match compares it: lower case, no punctuation, no articles, single spaces.

    A text of nothing but such signs keeps them, so that it equals itself alone.
    """
    plain = " ".join(_ARTICLES.sub(" ", text.lower().translate(_MARKS)).split())
    return plain or " ".join(text.lower().split())


def _row(fact: Fact) -> dict[str, Any]:
    return {
        "prompt": fact.prompt, "target": fact.target, "rephrase": list(fact.rephrases), "locality": list(fact.locality)
    }  # fmt: skip


def _fact(row: Mapping[str, Any], place: str) -> Fact:
    """One row as a fact. Raises `ValueError` saying what is wrong with it."""
    found = {}
    for column in COLUMNS[:2]:
        value = row.get(column)
        if not isinstance(value, str):
            raise ValueError(f"{column}: expected a text, found {_said(value)}")
        if not value.strip():
            raise ValueError(f"{column} is empty")
        found[column] = value
    more = {column: _texts(row.get(column), column) for column in COLUMNS[2:]}
    prompt, target = found["prompt"].rstrip(" "), found["target"].strip()
    if "\n" in target:
        raise ValueError("target: has a line break, and an answer ends at one")
    return Fact(prompt, target, more["rephrase"], more["locality"], place)


def _texts(value: Any, column: str) -> tuple[str, ...]:
    """None, a text or a list of texts as a tuple; empty ones count as left out."""
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple):
        raise ValueError(f"{column}: expected a text or a list of texts, found {_said(value)}")
    if wrong := [one for one in values if not isinstance(one, str)]:
        raise ValueError(f"{column}: expected texts in the list, found {_said(wrong[0])}")
    return tuple(one.rstrip(" ") for one in values if one.strip())


def _said(value: Any) -> str:
    return "nothing" if value is None else f"{str(value)[:40]!r} ({type(value).__name__})"
