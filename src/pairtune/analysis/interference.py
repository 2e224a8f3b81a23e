"""What two deltas of one base do to each other when they are added: shared entries, opposite signs, the angle.

The sparser two deltas are, the fewer entries both change, and only there does adding one alter what the other learnt
(Ansell et al., "Composable Sparse Fine-Tuning for Cross-Lingual Transfer", arXiv 2110.07560).

    shared = |{i: a_i ≠ 0 and b_i ≠ 0}|;   conflicts = |{i: a_i b_i < 0}|;   cosine = Σ a_i b_i / (‖a‖ ‖b‖)

over all entries i of the base's tensors; a, b: the deltas' differences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch

from pairtune.analysis.report import Table
from pairtune.errors import DeltaMismatch

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.delta import Delta


@dataclass(frozen=True)
class Interference:
    """Two deltas over one base.

    Attributes:
        changed: entries that each of the two changes.
        shared: entries that both change.
        conflicts: shared entries that they move in opposite directions.
        cosine: of the angle between the two; None where one of them changes nothing.
    """

    changed: tuple[int, int]
    shared: int
    conflicts: int
    cosine: float | None

    @property
    def overlap(self) -> float:
        """Shared entries as a share of those of the delta that changes fewer; 0 where it changes none."""
        return self.shared / max(min(self.changed), 1)

    @property
    def opposed(self) -> float:
        """Conflicts as a share of the shared entries; 0 where there are none."""
        return self.conflicts / max(self.shared, 1)


def interference(first: Delta, second: Delta) -> Interference:
    """How two deltas overlap, one tensor in memory at a time; tensors of a delta's own (heads) are left out.

    Raises `DeltaMismatch` for a tensor of different widths, `MissingView` for stored values without a base.
    """
    changed, squares, shared, conflicts, product = [0, 0], [0.0, 0.0], 0, 0, 0.0
    for name in dict.fromkeys([*first, *second]):
        sides = [_difference(delta, name) for delta in (first, second)]
        for i, side in enumerate(sides):
            if side is not None:
                changed[i] += int(side.count_nonzero())
                squares[i] += float(side.square().sum())
        a, b = sides
        if a is None or b is None:
            continue
        if a.shape[1:] != b.shape[1:]:
            raise DeltaMismatch(
                f"{name}: the shapes differ: {list(a.shape)} in one delta, {list(b.shape)} in the other"
            )
        rows = min(len(a), len(b))  # rows that one adds (new tokens) are its own
        a, b = a[:rows], b[:rows]
        both = a * b
        shared += int(((a != 0) & (b != 0)).sum())
        conflicts += int((both < 0).sum())
        product += float(both.sum())
    lengths = math.sqrt(squares[0]) * math.sqrt(squares[1])
    return Interference((changed[0], changed[1]), shared, conflicts, product / lengths if lengths else None)


def _difference(delta: Delta, name: str) -> Tensor | None:
    """In float64, where products of small numbers do not vanish."""
    if name not in delta or delta[name].kind == "module":
        return None
    return delta.difference(name).to(torch.float64)


def between(deltas: Mapping[str, Delta]) -> dict[str, Interference]:
    """Every pair of several deltas, under "<one> + <other>"."""
    return {
        f"{one} + {other}": interference(deltas[one], deltas[other]) for one, other in combinations(list(deltas), 2)
    }


def table(found: Mapping[str, Interference]) -> Table:
    """One row a pair of deltas."""
    rows = []
    for pair, one in found.items():
        cosine = "–" if one.cosine is None else f"{one.cosine:+.3f}"
        rows.append((pair, f"{one.shared:,}", f"{one.overlap:.1%}", f"{one.opposed:.1%}", cosine))
    head = ("if added", "changed by both", "of the smaller", "in opposite directions", "cosine")
    return Table("Where the variants' changes meet", head, rows, numeric=(1, 2, 3, 4))
