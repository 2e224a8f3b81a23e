"""Rows whose text to write does not fit into what a model takes: left out, and said so.

A prompt is cut where it is too long; a text to write never is, since a cut one would teach the model to stop in the
middle, and its loss would be that of another text. So such a row is of no use on this model.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from pairtune.data.forms import RowError, TooLong
from pairtune.errors import DataError

if TYPE_CHECKING:
    from pairtune.data.encode import Encoder
    from pairtune.data.split import Split
    from pairtune.data.task import Task

log = logging.getLogger("pairtune")
_AT_ONCE = 1000  # rows that are tokenised in one call


def fitting(encoder: Encoder, task: Task, splits: Collection[str]) -> Task:
    """The task, these splits of it without the rows that the encoder cannot hold; one warning a split names them.

    Every row of the splits is tokenised once, where the task is to write texts; other tasks come back as they are.

    Raises `DataError` where no row of a split fits, and for a row that cannot be encoded for another reason.
    """
    if encoder.view != "tokens" or encoder.task.kind not in ("lm", "seq2seq"):
        return task
    if encoder.task.label is None and not encoder.chat:
        return task
    kept = {}
    for name in splits:
        rows = task.split(name)
        places, left, why = _sorted(encoder, rows)
        if not places:
            raise DataError(f"none of the {len(rows):,} rows of {name} can be learnt: {why}", *rows.place(0))
        if left:
            shown = "; ".join(rows.where(i) for i in left[:3]) + ("; ..." if len(left) > 3 else "")
            counts = f"{len(left):,} of {len(rows):,} rows of {name}"
            log.warning("%s are left out: %s (%s)", counts, why, shown)
            kept[name] = rows.select(places)
    return replace(task, splits=task.splits | kept) if kept else task


def _sorted(encoder: Encoder, rows: Split) -> tuple[list[int], list[int], str]:
    """The rows that fit, those that do not, and what is wrong with the first of these."""
    places: list[int] = []
    left: list[int] = []
    why = ""
    for start in range(0, len(rows), _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, len(rows)))
        try:
            encoder.many([rows[i] for i in numbers])
            places += numbers
        except RowError:  # one at least; which ones, the rows one by one tell
            for i in numbers:
                try:
                    encoder.many([rows[i]])
                    places.append(i)
                except TooLong as error:
                    why = why or error.message
                    left.append(i)
                except RowError as error:
                    raise rows.error(i, error.message) from None
    return places, left, why
