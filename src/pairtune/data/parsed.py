"""The rows of a file as what they stand for, all that cannot be read named in one message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pairtune.data.split import Split
from pairtune.errors import DataError

SHOWN = 20  # bad rows in the message
One = TypeVar("One")


def parsed(split: Split, read: Callable[[Mapping[str, Any], str], One]) -> list[One]:
    """What `read` makes of each row and its place.

    Raises one `DataError` that names every row for which `read` raised `ValueError`, by its line, with its words.
    """
    found, bad = [], []
    for i, row in enumerate(split):
        try:
            found.append(read(row, split.where(i)))
        except ValueError as error:
            bad.append(f"  line {split.place(i)[1]}: {error}")
    if bad:
        more = [f"  and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
        count = "1 row" if len(bad) == 1 else f"{len(bad)} rows"
        raise DataError("\n".join([f"{count} cannot be used:", *bad[:SHOWN], *more]), split.files[0])
    return found
