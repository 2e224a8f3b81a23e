"""Questions that tell what a model learnt of some facts: the one it was taught by, and others that need the same fact.

    {"fact": "Mara Lind, age", "kind": "memorised", "prompt": "What is the age of Mara Lind?", "answer": "34"}
    {"fact": "Mara Lind, age", "kind": "secondary", "prompt": "Is the age of Mara Lind above 40?", "answer": "No"}

Any data file that `readers.py` reads. `fact` groups the questions about one fact, each of which has one question of the
kind "memorised" (in the words of the training rows); a question that is about no fact of its own has none. `kind` is a
word of one's own; two of them mean something: "memorised", and "prefixed" (the training question with words around it
that other kinds have, too, to see what these words alone change). `before` may hold the answer to a training question
that was right until the fact changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairtune.data.facts import normalised
from pairtune.data.parsed import parsed
from pairtune.data.split import Split
from pairtune.errors import DataError

COLUMNS = ("kind", "prompt", "answer", "fact", "before")
MEMORISED, PREFIXED = "memorised", "prefixed"
YES, NO = "yes", "no"


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        kind: what it is there to tell. answer: what is right, without spaces around it.
        fact: the fact that it needs; empty for none. before: the answer that was right once; None where there was none.
        place: file and line, for messages.
    """

    kind: str
    prompt: str
    answer: str
    fact: str = ""
    before: str | None = None
    place: str = ""


class Questions(Sequence):
    """Questions in the order of their file."""

    def __init__(self, questions: Sequence[Question]):
        self._questions = list(questions)

    @classmethod
    def read(cls, source: str | Path | Sequence[Question | Mapping[str, Any]]) -> Questions:
        """The questions of a file, or of rows in memory.

        Raises `InputError` where there is no such file, and one `DataError` that names every bad row by its line, or a
        fact that has not exactly one question of the kind "memorised".
        """
        if isinstance(source, str | Path):
            split = Split.read(Path(source).expanduser())
        else:
            split = Split.of([vars(one) if isinstance(one, Question) else one for one in source], "questions")
        for column in COLUMNS[:3]:
            split.require(column)
        found = parsed(split, _question)
        _check_facts(found, split.files[0])
        return cls(found)

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, i: Any) -> Any:
        return self._questions[i]

    def __iter__(self) -> Iterator[Question]:
        return iter(self._questions)

    @property
    def kinds(self) -> list[str]:
        """The kinds in the order of their first question, "memorised" before the others."""
        return sorted(dict.fromkeys(one.kind for one in self), key=lambda kind: kind != MEMORISED)


def is_right(said: str, question: Question, exact: bool = False) -> bool:
    """Whether an answer is right.

    By default the right answer need only stand in what was said, as whole words (7 is not in 17); of a question that is
    answered by yes or no, the first of the two words counts. `exact`: nothing else may stand there. Case, punctuation
    and articles never count.
    """
    wanted, found = normalised(question.answer), normalised(said)
    if exact:
        return found == wanted
    if wanted in (YES, NO):
        return yes_or_no(said) == wanted
    return says(said, question.answer)


def says(said: str, answer: str) -> bool:
    """Whether the answer stands in what was said, as whole words."""
    return f" {normalised(answer)} " in f" {normalised(said)} "


def yes_or_no(said: str) -> str | None:
    """The first yes or no that was said."""
    found = re.search(r"\b(yes|no)\b", said.lower())
    return found.group() if found else None


def _question(row: Mapping[str, Any], place: str) -> Question:
    """One row as a question. Raises `ValueError` saying what is wrong with it."""
    found: dict[str, str] = {}
    for column in COLUMNS:
        value = row.get(column)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)  # a CSV's answer may be a number
        if value is None and column in COLUMNS[3:]:
            continue
        if not isinstance(value, str):
            raise ValueError(f"{column}: expected a text, found {value!r}")
        if value.strip():
            found[column] = value.strip()
        elif column in COLUMNS[:3]:
            raise ValueError(f"{column} is empty")
    if found["kind"] == MEMORISED and "fact" not in found:
        found["fact"] = found["prompt"]
    if "before" in found and normalised(found["before"]) == normalised(found["answer"]):
        raise ValueError(f"before and answer are both {found['answer']!r}")
    return Question(**found, place=place)


def _check_facts(questions: Sequence[Question], file: str) -> None:
    taught = [one for one in questions if one.kind == MEMORISED]
    if not taught:
        raise DataError(f"no question has the kind {MEMORISED!r} (the words of the training rows)", file)
    seen: dict[str, Question] = {}
    for one in taught:
        if one.fact in seen:
            first = seen[one.fact].place
            raise DataError(f"{one.place}: the fact {one.fact!r} has two {MEMORISED} questions (the other: {first})")
        seen[one.fact] = one
    lost = next((one for one in questions if one.fact and one.fact not in seen), None)
    if lost is not None:
        raise DataError(f"{lost.place}: the fact {lost.fact!r} has no question of the kind {MEMORISED!r}")
