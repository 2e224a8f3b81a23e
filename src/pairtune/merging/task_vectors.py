"""What the methods on task vectors (the models' changes against their base) share: trimming, and election by sign.

Masks are made by arithmetic (signs, clamps, products with 0 and 1): on a processor's vector units that takes a tenth of
the time of selecting by truth values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy
import torch
from torch import Tensor

from pairtune.merging.engine.operands import Operands

_LEVEL = 16  # bits of a number that one pass of the selection decides


def magnitude_at(whole: Operands, i: int, place: int) -> float:
    """The number at a place (from 0) of the ascending order of |change| of model i.

    Exact, in two passes over the tensor (four in float64) and without a copy of it: positive floats are ordered as the
    integers with their bits are, whose digits are counted level by level.
    """
    size = whole.dtype.itemsize * 8
    integer = torch.int32 if size == 32 else torch.int64
    prefix = 0
    for shift in range(size - _LEVEL, -1, -_LEVEL):
        counts = torch.zeros((1 << _LEVEL) + 2, dtype=torch.int64)
        for piece in whole.pieces():
            digits = piece.change(i).abs_().view(integer).sub_(prefix).bitwise_right_shift_(shift)
            counts += torch.bincount(digits.clamp_(-1, 1 << _LEVEL).add_(1), minlength=len(counts))
        below = counts.cumsum(0)  # [0]: smaller than the prefix; the last: larger than all that begin with it
        digit = int(torch.searchsorted(below, place + 1)) - 1
        prefix += digit << shift
    return float(torch.tensor(prefix, dtype=integer).view(whole.dtype))


def at_least(change: Tensor, smallest: float) -> Tensor:
    """The change where its magnitude is `smallest` or more, elsewhere 0."""
    if not smallest > 0:
        return change
    kind = numpy.float64 if change.dtype == torch.float64 else numpy.float32
    return torch.nn.functional.hardshrink(change, float(numpy.nextafter(kind(smallest), kind(0))))


def at_most(change: Tensor, largest: float) -> Tensor:
    """The change where its magnitude is `largest` or less, elsewhere 0."""
    return change.sub_(torch.nn.functional.hardshrink(change, largest))


def dropped(piece: Operands, i: int, density: float, seed: int) -> Tensor:
    """Model i's change with entries dropped at random, the others divided by `density`, the chance to be kept."""
    change = piece.change(i)
    if density == 1:
        return change
    kept = torch.rand(change.shape, generator=piece.generator(i, seed)).neg_().add_(density).clamp_(min=0).sign_()
    return change.mul_(kept.mul_(1 / density))


def summed(changes: Iterable[Tensor], weights: Sequence[float], normalize: bool) -> Tensor:
    """sum_i w_i δ_i, divided by the sum of the weights where asked (and that is not 0)."""
    total: Tensor | None = None
    for change, weight in zip(changes, weights, strict=True):
        total = change.mul_(weight) if total is None else total.add_(change, alpha=weight)
    assert total is not None
    divisor = sum(weights)
    return total.div_(divisor) if normalize and abs(divisor) > 1e-8 else total


def elected(changes: Iterable[Tensor], weights: Sequence[float], normalize: bool) -> Tensor:
    """Element by element, the sum of those w_i δ_i whose sign is that of the sum of all (positive where that is 0).

    With `normalize` it is divided by the sum of their w_i. δ_i that are 0 take no part.
    """
    sums: list[Tensor] = []  # of the positive and the negative w_i δ_i, and of the weights of each
    for change, weight in zip(changes, weights, strict=True):
        low = change.mul_(weight).clamp(max=0)
        high = change.clamp_(min=0)
        found = [high, low, high.sign().mul_(weight), low.sign().mul_(-weight)] if normalize else [high, low]
        sums = found if not sums else [total.add_(one) for total, one in zip(sums, found, strict=True)]
    up, down = sums[:2]
    positive = (up + down).sign_().add_(1).clamp_(max=1)
    negative = 1 - positive
    out = up.mul_(positive).add_(down.mul_(negative))
    if normalize:
        divisor = sums[2].mul_(positive).add_(sums[3].mul_(negative))
        out.div_(divisor.add_(1 - divisor.abs().sign_()))  # by 1 where nobody agrees
    return out
