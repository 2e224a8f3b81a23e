"""Which K entries of all tensors together have the largest scores: exactly K, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_HALF = 1 << 16


def largest(scores: Mapping[str, Callable[[], Tensor]], count: int) -> dict[str, Tensor]:
    """The places of the `count` largest scores over all tensors.

    A score that is not negative is ordered as its bits are, so that counting the upper and then the lower half of the
    bits finds the score of the last place exactly, without sorting and without all scores at once. Every tensor's
    scores are asked for three times.

    Args:
        scores: name → a function that gives the tensor's scores, float32, not negative, finite, any shape, the same at
            every call.
        count: how many, at most as many as there are scores.

    Returns: name → int64 [k], ascending places in the flattened tensor; a name without any is left out. Of equal scores
    the earlier tensor's, and in a tensor the earlier place's, comes first.
    """
    upper = _counts(scores, lambda bits: bits >> 16)
    high, above = _reached(upper, count)
    lower = _counts(scores, lambda bits: bits[bits >> 16 == high] & (_HALF - 1))
    low, more = _reached(lower, count - above)
    last, ties = high << 16 | low, count - above - more
    found = {}
    for name, score in scores.items():
        bits = _bits(score())
        chosen = bits > last
        equal = (bits == last).nonzero().squeeze(1)[:ties]
        chosen[equal] = True
        ties -= len(equal)
        if bool(chosen.any()):
            found[name] = chosen.nonzero().squeeze(1)
    return found


def _bits(score: Tensor) -> Tensor:
    return score.reshape(-1).contiguous().view(torch.int32)


def _counts(scores: Mapping[str, Callable[[], Tensor]], part: Callable[[Tensor], Tensor]) -> Tensor:
    """How many scores have each value of a half of their bits."""
    total = torch.zeros(_HALF, dtype=torch.int64)
    for score in scores.values():
        total += torch.bincount(part(_bits(score())), minlength=_HALF).cpu()
    return total


def _reached(counts: Tensor, wanted: int) -> tuple[int, int]:
    """The value at which so many are reached, counted from the largest, and how many lie above it."""
    from_top = counts.flip(0).cumsum(0)
    at = int((from_top >= wanted).nonzero()[0])
    return len(counts) - 1 - at, int(from_top[at - 1]) if at else 0
