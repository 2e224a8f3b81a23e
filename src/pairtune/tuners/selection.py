"""Which K entries of all tensors together have the largest scores: exactly K, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_HALF = 1 << 16


@dataclass(frozen=True)
class Cut:
    """Where the largest scores end.

    Attributes:
        last: the bits of the smallest score that is chosen.
        ties: how many of the scores equal to it are chosen; the first ones, in the order of the scores.
    """

    last: int
    ties: int

    def taken(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """[n] which of some scores lie above the last one, and [n] which are equal to it."""
        bits = _bits(score)
        return bits > self.last, bits == self.last


def cut(scores: Callable[[], Iterable[Tensor]], count: int) -> Cut:
    """The cut below the `count` largest scores.

    A score that is not negative is ordered as its bits are, so that counting the upper and then the lower half of the
    bits finds the score of the last place exactly, without sorting and without all scores at once: two passes.

    Args:
        scores: gives all of them, the same at both calls, in pieces of any shape; float32, not negative, finite.
        count: how many, at least 1 and at most as many as there are scores.
    """
    high, above = _reached(_counts(scores(), lambda bits: bits >> 16), count)
    low, more = _reached(_counts(scores(), lambda bits: bits[bits >> 16 == high] & (_HALF - 1)), count - above)
    return Cut(high << 16 | low, count - above - more)


def largest(scores: Mapping[str, Callable[[], Tensor]], count: int) -> dict[str, Tensor]:
    """The places of the `count` largest scores over all tensors.

    Args:
        scores: name → a function that gives the tensor's scores, float32, not negative, finite, any shape, the same at
            each of three calls.
        count: how many, at most as many as there are scores.

    Returns: name → int64 [k], ascending places in the flattened tensor; a name without any is left out. Of equal scores
    the earlier tensor's, and in a tensor the earlier place's, comes first.
    """
    end = cut(lambda: (score() for score in scores.values()), count)
    ties, found = end.ties, {}
    for name, score in scores.items():
        chosen, equal = end.taken(score())
        first = equal.nonzero().squeeze(1)[:ties]
        chosen[first] = True
        ties -= len(first)
        if bool(chosen.any()):
            found[name] = chosen.nonzero().squeeze(1)
    return found


def _bits(score: Tensor) -> Tensor:
    return score.reshape(-1).contiguous().view(torch.int32)


def _counts(scores: Iterable[Tensor], part: Callable[[Tensor], Tensor]) -> Tensor:
    """How many scores have each value of a half of their bits."""
    total = torch.zeros(_HALF, dtype=torch.int64)
    for score in scores:
        total += torch.bincount(part(_bits(score)), minlength=_HALF).cpu()
    return total


def _reached(counts: Tensor, wanted: int) -> tuple[int, int]:
    """The value at which so many are reached, counted from the largest, and how many lie above it."""
    from_top = counts.flip(0).cumsum(0)
    at = int((from_top >= wanted).nonzero()[0])
    return len(counts) - 1 - at, int(from_top[at - 1]) if at else 0
