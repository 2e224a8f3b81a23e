"""Questions, and rows to tune on, made from a table of facts.

    subject,attribute,value,before                    subject,age,city
    Mara Lind,age,34,                         or      Mara Lind,34,Oslo
    Mara Lind,city,Oslo,Bergen                        Jon Abel,51,Turin

One row a fact (`before`: what was right until it changed), or one row a subject and one column an attribute.

After the fictional people of Wu, Wu and Zou, "FineTuneBench", arXiv 2411.05059. Of every fact:

    memorised   What is the age of Mara Lind?                                            the only words in the training
    rephrased   the same in other words
    prefixed    the training question with the words that the last kind has, as a control of these words
    secondary   Is the age of Mara Lind above 40? Is the city of Mara Lind Oslo?         yes or no, half of each
    comparison  Is the age of Mara Lind higher than that of Jon Abel?                    the same of two subjects
    unknown     the training question about a subject that is not there                  None is right

Departures: the words are our own; thresholds are the middle of an attribute's values and half of the named values are
true, so that yes is as often right as no (theirs was No in three of five, and no model beat that); two subjects are
asked whether they have the same text rather than whose comes first in the alphabet; an unknown subject has the first
name of one and the last of another in the place of another year.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairtune.data.knowledge import MEMORISED, PREFIXED, Question
from pairtune.data.parsed import parsed
from pairtune.data.split import Split
from pairtune.errors import DataError

FORM = "What is the {attribute} of {subject}?"
OTHERS = (
    "Can you tell me the {attribute} that {subject} has?",
    "I would like to know {subject}'s {attribute}.",
    "About {subject}: {attribute}?",
)
PARAPHRASES = (
    "{subject} has which {attribute}?",
    "Please give the {attribute} of {subject}.",
    "Which {attribute} belongs to {subject}?",
    "Name {subject}'s {attribute}.",
    "The {attribute} of {subject} is what?",
)
UNKNOWN = " Answer None if it is not known."
YES_NO = ("No", "Yes")


@dataclass(frozen=True)
class Stated:
    """A fact: a subject's attribute has a value; `before` is the value that it had, None where it is no change."""

    subject: str
    attribute: str
    value: str
    before: str | None = None

    def asked(self, form: str = FORM) -> str:
        """The question in these words."""
        return form.format(subject=self.subject, attribute=self.attribute)

    @property
    def name(self) -> str:
        return f"{self.subject}, {self.attribute}"


def read_table(source: str | Path | Sequence[Mapping[str, Any]]) -> list[Stated]:
    """The facts of a table, in its order.

    Raises `InputError` where there is no such file, `DataError` for a table without subjects, values or attributes, or
    one that gives an attribute of a subject twice.
    """
    split = Split.read(Path(source).expanduser()) if isinstance(source, str | Path) else Split.of(source, "facts")
    split.require("subject")
    if "attribute" in split.columns:
        split.require("value")
        found = parsed(split, lambda row, _: _of_row(row))
    else:
        wide = [name for name in split.columns if name != "subject"]
        if not wide:
            raise DataError("beside 'subject' there is no column with an attribute", split.files[0])
        found = [one for several in parsed(split, lambda row, _: _of_columns(row, wide)) for one in several]
    seen: set[str] = set()
    for one in found:
        if one.name in seen:
            raise DataError(f"{one.subject!r} has two values of {one.attribute!r}", split.files[0])
        seen.add(one.name)
    return found


def training_rows(facts: Sequence[Stated], paraphrases: int = 0) -> list[dict[str, str]]:
    """`prompt` and `completion` of every fact, and in so many (0 to 5) other words, none of which a question has."""
    return [
        {"prompt": fact.asked(form), "completion": fact.value}
        for form in (FORM, *PARAPHRASES[:paraphrases])
        for fact in facts
    ]


def questions(facts: Sequence[Stated], seed: int = 0) -> list[Question]:
    """The questions about the facts, kind after kind; the seed draws who is compared with whom."""
    draw = random.Random(seed)
    found = [Question(MEMORISED, one.asked(), one.value, one.name, one.before) for one in facts]
    found += [Question("rephrased", one.asked(draw.choice(OTHERS)), one.value, one.name, one.before) for one in facts]
    found += [Question(PREFIXED, one.asked() + UNKNOWN, one.value, one.name, one.before) for one in facts]
    groups: dict[str, list[Stated]] = {}
    for one in facts:
        groups.setdefault(one.attribute, []).append(one)
    for kind, asked in (("secondary", _secondary), ("comparison", _comparisons)):
        found += [
            Question(kind, prompt, YES_NO[yes], one.name)
            for group in groups.values()
            for prompt, yes, one in asked(group, draw)
        ]
    return found + _unknown(facts, draw)


Asked = list[tuple[str, bool, Stated]]  # prompt, whether yes is right, the fact that it is about


def _secondary(group: Sequence[Stated], draw: random.Random) -> Asked:
    """Above the middle or not, of numbers; this text or another one."""
    numbers = _numbers(group)
    if numbers is not None:
        middle = _middle(numbers)
        if middle is None:
            return []
        form = "Is the {attribute} of {subject} above " + f"{middle:.12g}?"
        return [(one.asked(form), number > middle, one) for one, number in zip(group, numbers, strict=True)]
    found, values = [], sorted({one.value for one in group})
    for one, yes in zip(group if len(values) > 1 else (), _halves(len(group), draw), strict=False):
        value = one.value if yes else draw.choice([other for other in values if other != one.value])
        found.append((one.asked("Is the {attribute} of {subject} ") + value + "?", yes, one))
    return found


def _comparisons(group: Sequence[Stated], draw: random.Random) -> Asked:
    """Who has the higher number, or whether both have the same text."""
    numbers = _numbers(group)
    form = "Do {one} and {other} have the same {attribute}?"
    if numbers is not None:
        form = "Is the {attribute} of {one} higher than that of {other}?"
    found: Asked = []
    for i, (one, yes) in enumerate(zip(group, _halves(len(group), draw), strict=True)):
        if numbers is not None:
            fitting = [j for j, number in enumerate(numbers) if (number < numbers[i] if yes else number > numbers[i])]
        else:
            fitting = [j for j, other in enumerate(group) if j != i and (other.value == one.value) == yes]
        if fitting:
            other = group[draw.choice(fitting)]
            prompt = form.format(attribute=one.attribute, one=one.subject, other=other.subject)
            found.append((prompt, yes, one))
    # An attribute that nobody shares (or everybody) has one answer alone, which would tell nothing.
    return found if len({yes for _, yes, _ in found}) == 2 else []


def _halves(count: int, draw: random.Random) -> list[bool]:
    """Yes for one half in a drawn order: whose answer is yes must not follow from who it is."""
    found = [i % 2 == 0 for i in range(count)]
    draw.shuffle(found)
    return found


def _unknown(facts: Sequence[Stated], draw: random.Random) -> list[Question]:
    """The training question about subjects that are not there; none where no subject has two words."""
    names = sorted({one.subject for one in facts})
    first, last = ({name.split()[place] for name in names if len(name.split()) > 1} for place in (0, -1))
    made = sorted({f"{a} {b}" for a in first for b in last} - set(names))
    if not made:
        return []
    return [
        Question("unknown", Stated(draw.choice(made), one.attribute, "None").asked() + UNKNOWN, "None")
        for one in facts
    ]  # fmt: skip


def _numbers(group: Sequence[Stated]) -> list[float] | None:
    """The values as numbers, where all are."""
    try:
        return [float(one.value.replace(",", "")) for one in group]
    except ValueError:
        return None


def _middle(numbers: Sequence[float]) -> float | None:
    """A number with as many values above as below, as nearly as can be; None where all are equal."""
    steps = sorted(set(numbers))
    if len(steps) == 1:
        return None
    half = statistics.median(numbers)
    return half if half < steps[-1] else steps[-2]


def _of_row(row: Mapping[str, Any]) -> Stated:
    before = row.get("before")
    kept = _text(before, "before") if before not in (None, "") else None
    value = _text(row.get("value"), "value")
    if kept == value:
        raise ValueError(f"before and value are both {value!r}")
    return Stated(_text(row.get("subject"), "subject"), _text(row.get("attribute"), "attribute"), value, kept)


def _of_columns(row: Mapping[str, Any], names: Sequence[str]) -> list[Stated]:
    """Of a row of a subject: its attributes; what is empty is left out."""
    subject = _text(row.get("subject"), "subject")
    given = [(name, row.get(name)) for name in names]
    return [Stated(subject, name, _text(value, name)) for name, value in given if value not in (None, "")]


def _text(value: Any, column: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:.12g}" if isinstance(value, float) else str(value)
    if not isinstance(value, str):
        raise ValueError(f"{column}: expected a text or a number, found {value!r}")
    if not value.strip():
        raise ValueError(f"{column} is empty")
    return " ".join(value.split())
