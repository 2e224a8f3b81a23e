"""Labels: from what stands in a data file to class names and numbers, a wrong one named by its file and line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pairtune.data.split import Split
from pairtune.errors import DataError, InputError
from pairtune.registry import suggest

CLASS_KINDS = frozenset({"classification", "multilabel"})
_SHOWN = 12  # names that a message lists


def name_of(value: Any) -> str:
    """The name of one class. Raises `ValueError` saying what is wrong with the value."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError("there is no label")
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"the label {value} is neither a class name nor a whole number (a regression task?)")
    if isinstance(value, (int, float)):
        return str(int(value))
    hint = " (a multilabel task?)" if isinstance(value, list) else ""
    raise ValueError(f"expected one class as the label, found {type(value).__name__}{hint}")


def names_of(value: Any) -> list[str]:
    """The class names of one row of a multilabel task: a list, a JSON list as text, or text parted by `|` or `;`.

    Empty text is no label. Raises `ValueError` saying what is wrong with the value.
    """
    if isinstance(value, str):
        if value.strip().startswith("["):
            value = json.loads(value)
        elif "," in value and not re.search(r"[|;]", value):
            raise ValueError(f"labels are parted by | or ;, not by a comma, found {value[:80]!r} (or give a JSON list)")
        else:
            value = [part for part in re.split(r"[|;]", value) if part.strip()]
    if not isinstance(value, list):
        raise ValueError(f"expected a list of labels, found {'nothing' if value is None else type(value).__name__}")
    names = [name_of(part) for part in value]
    if len(set(names)) < len(names):
        raise ValueError(f"a label occurs twice in {names}")
    return names


def number_of(value: Any) -> float:
    """A finite number. Raises `ValueError` saying what is wrong with the value."""
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"expected a number as the label, found {value!r:.80}")
    return number


def text_of(value: Any) -> str:
    """A text to write. Raises `ValueError` saying what is wrong with the value."""
    if not isinstance(value, str):
        raise ValueError(f"expected a text to write, found {'nothing' if value is None else type(value).__name__}")
    return value


PARSE: Mapping[str, Callable[[Any], Any]] = {
    "classification": name_of,
    "multilabel": names_of,
    "regression": number_of,
    "lm": text_of,
    "seq2seq": text_of,
}


def is_blank(value: Any, kind: str) -> bool:
    """Whether a row has no label here: null, or an empty cell where a class or a number should stand."""
    return value is None or (kind in ("classification", "regression") and isinstance(value, str) and not value.strip())


def parsed(split: Split, column: str, kind: str, optional: bool = False) -> Iterator[Any]:
    """Each row's label; None for one that is missing or blank where labels are optional.

    Raises `DataError` naming file and line of the first label that does not fit the kind.
    """
    parse = PARSE[kind]
    for i, value in enumerate(split.values(column, None) if optional else split.values(column)):
        if optional and is_blank(value, kind):
            yield None
            continue
        try:
            yield parse(value)
        except (ValueError, RecursionError) as error:
            raise split.error(i, f"column {column!r}: {error}") from None


def collect(splits: Mapping[str, Split], column: str, kind: str, given: Sequence[str] | None) -> list[str]:
    """The label list, every label of every split having been read once.

    Args:
        given: the list where it is known: then its order is kept, and a label that is not in it is an error. Otherwise
            the labels of all splits but the OOD ones, in numerical or else alphabetical order.

    The labels of OOD splits may be missing or others: such a row counts as unlabelled. Raises `DataError` naming file
    and line of a label that cannot be read or is not in the list.
    """
    found: dict[str, None] = dict.fromkeys(given or ())
    for name, split in splits.items():
        ood = name.startswith("ood/")
        for i, label in enumerate(parsed(split, column, kind, optional=ood)):
            if kind not in CLASS_KINDS or ood:
                continue
            for one in [label] if isinstance(label, str) else label:
                if one not in found:
                    if given is not None:
                        raise split.error(
                            i, f"the label {one!r} is not in the label list ({_some(given)}){suggest(one, given)}"
                        )
                    found[one] = None
    if kind in CLASS_KINDS and not found:
        raise DataError(f"no row has a label in the column {column!r}", ", ".join(next(iter(splits.values())).files))
    return list(found) if given is not None else ordered(found)


def ordered(names: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Whole numbers by size, other names by the alphabet."""
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def checked_list(labels: Sequence[Any]) -> list[str]:
    """A label list that somebody wrote. Raises `InputError` for one that is empty or names a label twice."""
    try:
        names = [name_of(label) for label in labels]
    except ValueError as error:
        raise InputError(f"labels: {error}") from None
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None or not names:
        raise InputError("labels: the list is empty" if twice is None else f"labels: {twice!r} occurs twice")
    return names


def _some(names: Sequence[str]) -> str:
    more = f", ... {len(names)} in all" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
