"""What the methods on task vectors (the models' changes against their base) share: trimming, and election by sign."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy
import torch
from torch import Tensor

from pairtune.merging.operands import Operands


def magnitudes(whole: Operands, i: int) -> numpy.ndarray:
    """|change| of model i, the whole tensor, gathered piece by piece."""
    out = torch.empty(whole.stop - whole.start, dtype=whole.dtype)
    for piece in whole.pieces():
        out[piece.start - whole.start : piece.stop - whole.start] = piece.change(i).abs_()
    return out.numpy()


def thresholds(sizes: numpy.ndarray, first: int, last: int) -> tuple[float, float]:
    """The numbers at two places of the ascending order of `sizes` (which is partly sorted in place), in linear time."""
    sizes.partition(sorted({first, last}))
    return float(sizes[first]), float(sizes[last])


def dropped(piece: Operands, i: int, density: float, seed: int) -> Tensor:
    """Model i's change with entries dropped at random, the others divided by `density`, the chance to be kept."""
    change = piece.change(i)
    if density == 1:
        return change
    drawn = torch.rand(change.shape, generator=piece.generator(i, seed))
    return change.mul_(1 / density).masked_fill_(drawn >= density, 0)


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
    up = down = ups = downs = None
    for change, weight in zip(changes, weights, strict=True):
        change.mul_(weight)
        high = change.clamp(min=0)
        low = change.sub_(high)
        more, less = (high > 0).to(high.dtype).mul_(weight), (low < 0).to(low.dtype).mul_(weight)
        if up is None or down is None or ups is None or downs is None:
            up, down, ups, downs = high, low, more, less
        else:
            for total, one in ((up, high), (down, low), (ups, more), (downs, less)):
                total.add_(one)
    assert up is not None and down is not None and ups is not None and downs is not None
    positive = up + down >= 0
    out = torch.where(positive, up, down)
    if normalize:
        divisor = torch.where(positive, ups, downs)
        out.div_(divisor.masked_fill_(divisor == 0, 1))
    return out
