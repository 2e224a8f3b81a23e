"""The sum of two changes of one tensor, kept as cheap as its exact result allows."""

from __future__ import annotations

import torch
from torch import Tensor

from pairtune.errors import DeltaMismatch
from pairtune.pair.parts import Dense, LowRank, Module, Part, Rows, Sparse


def check_same_shape(first: Part, second: Part) -> None:
    """Raise unless the two can be added: `DeltaMismatch` for shapes, `MissingView` for tensors without a difference."""
    for part in (first, second):
        if isinstance(part, Module):
            raise part.refusal("two of it cannot be added")
    longer = [part for part in (first, second) if isinstance(part, Rows)]
    if first.base_shape != second.base_shape or (len(longer) == 2 and first.shape != second.shape):
        shapes = f"{list(first.shape)} in one delta and {list(second.shape)} in the other"
        raise DeltaMismatch(f"the shapes differ: {shapes}; were both made on the same base and vocabulary?")


def plus(first: Part, second: Part, alpha: float = 1.0, base: Tensor | None = None) -> Part:
    """first + alpha · second.

    Low-rank + low-rank is low-rank (the ranks add), sparse + sparse is sparse (the union), rows stay rows; all else
    becomes dense in float32 (float64 where a tensor is float64). A part that needs the base takes `base`, which both
    then refer to.

    Raises `DeltaMismatch` where the shapes differ, `MissingView` where the base is missing or there is no difference.
    """
    check_same_shape(first, second)
    if isinstance(first, LowRank) and isinstance(second, LowRank):
        return _stacked(first, second, alpha)
    if isinstance(first, Sparse) and isinstance(second, Sparse):
        return _union(first, second, alpha)
    if isinstance(first, Rows) or isinstance(second, Rows):
        return _rows(first, second, alpha, base)
    out = first.difference(base, first.arithmetic(second.arithmetic()))
    second.check_base(base)
    second.add_to(out, alpha, base)
    return Dense(out)


def _stacked(first: LowRank, second: LowRank, alpha: float) -> LowRank:
    """s (B₁A₁ + (αt/s) B₂A₂) = s [B₁ | (αt/s) B₂] [A₁ ; A₂], with the larger of |s| and |αt| drawn out."""
    dtype = first.arithmetic(second.arithmetic())
    device = first.A.device
    scales = (first.scale, alpha * second.scale)
    common = max(scales, key=abs) or 1.0
    factors = [part.B.to(device, dtype) for part in (first, second)]
    factors = [b if s == common else b * (s / common) for b, s in zip(factors, scales, strict=True)]
    a = torch.cat([first.A.to(device, dtype), second.A.to(device, dtype)])
    return LowRank(a, torch.cat(factors, dim=1), common)


def _union(first: Sparse, second: Sparse, alpha: float) -> Sparse:
    dtype = first.arithmetic(second.arithmetic())
    device = first.values.device
    index, place = torch.cat([first.index, second.index.to(device)]).unique(return_inverse=True)
    values = torch.zeros(len(index), dtype=dtype, device=device)
    # One call a side: within a call no place occurs twice, so that the sum does not depend on the order of threads.
    values.index_add_(0, place[: len(first.index)], first.values.to(dtype))
    values.index_add_(0, place[len(first.index) :], second.values.to(device, dtype), alpha=alpha)
    return Sparse(first.shape, index, values)


def _rows(first: Part, second: Part, alpha: float, base: Tensor | None) -> Rows:
    """New rows add up, old rows add up; a part without new rows changes the old ones alone."""
    rows: Tensor | None = None
    old: Part | None = None
    for part, scale in ((first, 1.0), (second, alpha)):
        grown = part if isinstance(part, Rows) else None
        below = grown.old if grown is not None else part
        if below is not None:
            old = below.scaled(scale, base) if old is None else plus(old, below, scale, base)
        if grown is not None:
            new = grown.rows
            if rows is not None:
                dtype = first.arithmetic(second.arithmetic())
                rows = rows.to(dtype).add(new.to(rows.device, dtype), alpha=scale)
            else:
                rows = new if scale == 1 else new.to(grown.arithmetic()) * scale
    assert rows is not None
    return Rows(first.base_shape[0], rows, old)
