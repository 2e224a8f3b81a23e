"""What a check found: how bad it is, what it is, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pairtune.data.split import Split

SHOWN = 3  # places that a finding names


@dataclass(frozen=True)
class Finding:
    """One thing that was found. `places` are the first few as `file:line`."""

    severity: Literal["error", "warning"]
    message: str
    places: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n    ".join([f"{self.severity}: {self.message}", *self.places])


def counted(
    split: Split, rows: Sequence[int], name: str, what: str, one: str, many: str
) -> tuple[str, tuple[str, ...]]:
    """`name: 3 of 1,000 texts are empty` and the first places."""
    message = f"{name}: {len(rows):,} of {len(split):,} {what} {one if len(rows) == 1 else many}"
    return message, tuple(split.where(i) for i in rows[:SHOWN])
