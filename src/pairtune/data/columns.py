"""Which column is the text and which the label: guessed from names and contents, each guess with its reason.

Text: a column of chat messages; else a well-known pair (premise, hypothesis); else a well-known name (text, sentence,
...); else the column of images or recordings; else the longest text. Label: a well-known name (label, intent, ...;
answer, target, ... for text to write); else the only column with few different values. Two candidates are no guess but
an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pairtune.data.media_table import looks_like
from pairtune.data.split import MISSING, Split
from pairtune.errors import DataError, InputError

MEDIA = ("image", "audio")
SAMPLE = 2000  # rows, evenly spaced, that a guess looks at
PAIRS = [
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("question", "sentence"),
    ("instruction", "input"),
]
TEXTS = (
    "text sentence utterance content review comment tweet statement query question prompt input instruction message "
    "document article passage source premise headline title"
).split()
CLASSES = (
    "label labels intent category categories class sentiment emotion topic gold_label stars rating score similarity "
    "target y tag tags"
).split()
TARGETS = (
    "target output completion response answer summary translation highlights reply continuation target_text label"
).split()


@dataclass(frozen=True)
class Column:
    """What a sample of a column looks like.

    Attributes:
        type: "text", "integer", "number", "yes/no", "list", "messages", "image", "audio", "other" or "empty".
        length: mean number of characters of its texts.
        distinct: different values in the sample.
        filled: values in the sample that are neither missing nor null.
        quoted: whether they are texts, numbers in quotes included.
    """

    name: str
    type: str
    length: float
    distinct: int
    filled: int
    quoted: bool

    @property
    def is_class(self) -> bool:
        """Few different values, short ones: it looks like a label whatever its name."""
        few = 2 <= self.distinct <= max(2, self.filled // 5)
        return self.type in ("text", "integer", "yes/no") and few and self.length <= 40


def profile(split: Split) -> list[Column]:
    """Every column of a split, by a sample of its rows."""
    step = max(1, len(split) // SAMPLE)
    rows = [split[i] for i in range(0, len(split), step)]
    return [_column(name, [row.get(name, MISSING) for row in rows]) for name in split.columns]


def _column(name: str, values: list[Any]) -> Column:
    values = [value for value in values if value is not MISSING and value is not None]
    texts = [value for value in values if isinstance(value, str)]
    length = sum(map(len, texts)) / len(texts) if texts else 0.0
    distinct = len({repr(value) for value in values})
    return Column(name, _type(values), length, distinct, len(values), len(texts) > 0.9 * len(values))


def _type(values: list[Any]) -> str:
    if not values:
        return "empty"
    # What nearly all are: one bad row must be found as a bad row, not turn the guess to another column.
    most, count = Counter(map(type, values)).most_common(1)[0]
    if count >= 0.9 * len(values):
        values = [value for value in values if type(value) is most]
    if all(is_chat(value) for value in values):
        return "messages"
    media, count = Counter(map(looks_like, values)).most_common(1)[0]
    if media is not None and count >= 0.9 * len(values):
        return media
    kinds = {type(value) for value in values}
    if kinds == {str}:
        filled = [value for value in values if value.strip()]
        return next(
            (t for t, cast in (("integer", _whole), ("number", float)) if filled and _all(cast, filled)), "text"
        )
    if kinds == {bool}:
        return "yes/no"
    if kinds <= {int, float}:
        return "integer" if _all(_whole, values) else "number"
    return "list" if kinds == {list} else "other"


def _all(cast: Any, values: Sequence[Any]) -> bool:
    try:
        for value in values:
            cast(value)
    except (ValueError, OverflowError):
        return False
    return True


def _whole(value: Any) -> int:
    if float(value) != int(float(value)):
        raise ValueError
    return int(float(value))


def is_chat(value: Any) -> bool:
    """Whether a value is a conversation: a list of mappings with `role` and `content`."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "role" in m for m in value)


def guess_text(columns: Sequence[Column], label: str | None) -> tuple[tuple[str, ...], str]:
    """The text columns, and why."""
    there = {column.name: column for column in columns if column.name != label}
    for name, column in there.items():
        if column.type == "messages":
            return (name,), "chat messages"
    texts = {name: column for name, column in there.items() if column.type == "text"}
    by_lower = {name.lower(): name for name in texts}
    for first, second in PAIRS:
        if first in by_lower and second in by_lower:
            return (by_lower[first], by_lower[second]), "well-known pair of names"
    for name in TEXTS:
        if name in by_lower:
            return (by_lower[name],), "well-known name"
    media = [column.name for column in there.values() if column.type in MEDIA]
    if len(media) > 1:
        raise InputError(f"which column is read? It may be {' or '.join(media)}; name it: text=<column>")
    if media:
        return (media[0],), f"the only column of {'images' if there[media[0]].type == 'image' else 'recordings'}"
    texts = {name: column for name, column in texts.items() if name.lower() not in CLASSES}
    if not texts:
        found = ", ".join(f"{column.name} ({column.type})" for column in columns)
        raise InputError(f"no column holds text, as far as can be seen (columns: {found}); name it: text=<column>")
    return (max(texts.values(), key=lambda column: column.length).name,), "longest text"


_NO_LABELS = ("empty", "messages", *MEDIA)


def guess_label(columns: Sequence[Column], text: Sequence[str], kind: str | None) -> tuple[str | None, str]:
    """The label or target column, and why; None for plain text."""
    if any(column.name in text and column.type == "messages" for column in columns):
        return None, "the messages say what is learnt"
    there = [column for column in columns if column.name not in text and column.type not in _NO_LABELS]
    writes = kind in ("lm", "seq2seq")
    names = TARGETS if writes else CLASSES if kind else [*CLASSES, *TARGETS]
    by_lower = {column.name.lower(): column for column in there if not writes or column.type == "text"}
    for name in names:
        if name in by_lower and not (kind == "lm" and name == "label"):
            return by_lower[name].name, "well-known name"
    if kind == "lm":
        return None, "plain text"
    wanted = {"seq2seq": ("text",), "multilabel": ("list",), "regression": ("number", "integer")}.get(kind or "")
    fitting = [column for column in there if (column.type in wanted if wanted else column.is_class)]
    if len(fitting) > 1:
        names = " or ".join(column.name for column in fitting)
        raise InputError(f"which column is the label? It may be {names}; name it: label=<column>")
    if not fitting and kind:
        found = ", ".join(f"{column.name} ({column.type}, {column.distinct} different)" for column in columns)
        raise InputError(f"no column looks like the label of a {kind} task (columns: {found}); name it: label=<column>")
    return (fitting[0].name, "the only column that looks like one") if fitting else (None, "plain text")


def guess_kind(columns: Sequence[Column], label: str | None, where: str) -> tuple[str, str]:
    """The task's kind from its label column, and why."""
    if label is None:
        return "lm", "there is no label"
    column = next((column for column in columns if column.name == label), None)
    if column is None or column.type in ("empty", "messages", "other"):
        raise DataError(f"the column {label!r} holds nothing that a label can be", where)
    if column.type == "list":
        return "multilabel", "several labels a row"
    to_write = label.lower() not in CLASSES and label.lower() in TARGETS and column.quoted
    nearly_all_differ = column.distinct > max(20, 0.9 * column.filled)
    if (
        column.quoted
        and not column.is_class
        and (to_write or (column.type == "text" and (column.length > 40 or nearly_all_differ)))
    ):
        return "lm", "the label is a text to write; on an encoder-decoder base the same is seq2seq"
    if column.type == "number" or (column.type == "integer" and nearly_all_differ):
        return "regression", "the label is a number"
    return "classification", f"{column.distinct} different labels"
