"""Where base and variant agree and disagree: four quadrants of the training rows.

Q1  both right        Q2  base wrong, variant right: reasoning gained
Q3  both wrong        Q4  base right, variant wrong: knowledge lost
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pairtune.data.split import Split

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.editing.reflex.reading import Reading


@dataclass(frozen=True)
class Quadrants:
    """Whether each row's verdict is right, [N] bool a side. Both sides' verdicts are greedy."""

    base: np.ndarray
    variant: np.ndarray

    @property
    def gained(self) -> np.ndarray:
        """Row numbers of Q2."""
        return np.flatnonzero(~self.base & self.variant)

    @property
    def lost(self) -> np.ndarray:
        """Row numbers of Q4."""
        return np.flatnonzero(self.base & ~self.variant)

    @property
    def agreed(self) -> np.ndarray:
        """Row numbers of Q1 and Q3."""
        return np.flatnonzero(self.base == self.variant)

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each quadrant."""
        right, wrong = self.base & self.variant, ~self.base & ~self.variant
        return {"Q1": int(right.sum()), "Q2": len(self.gained), "Q3": int(wrong.sum()), "Q4": len(self.lost)}


def select(reading: Reading, split: Split, shots: Sequence[Mapping[str, Any]]) -> Quadrants:
    """Greedy verdicts of both sides on every row: the base's behind examples, the variant's without."""
    targets = reading.targets(split)
    with reading.pair.off():
        base = reading.probabilities(reading.rows(split, shots)).argmax(1)
    variant = reading.probabilities(reading.rows(split)).argmax(1)
    return Quadrants(base == targets, variant == targets)


def examples(task: Task, split: Split, count: int) -> list[dict[str, Any]]:
    """The first rows of a split that show each verdict in turn, `count` of them or as many as there are."""
    by_label: dict[int, list[dict[str, Any]]] = {}
    for row in split:
        by_label.setdefault(task.target(row), []).append(row)
    found: list[dict[str, Any]] = []
    while len(found) < count and any(by_label.values()):
        for rows in by_label.values():
            if rows and len(found) < count:
                found.append(rows.pop(0))
    return found
