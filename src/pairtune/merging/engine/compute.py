"""One tensor of the result, piece by piece: the only place where a merge's numbers are made."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from pairtune.errors import DeltaMismatch
from pairtune.merging.engine.operands import PIECE, Operands, Readable
from pairtune.merging.engine.plan import Place, Step


def pieces(step: Step) -> Iterator[Tensor]:
    """The flattened result from its beginning, in pieces, rounded once to the type in which it is stored.

    Raises `DeltaMismatch` naming the model whose tensor holds NaN or infinity, or the tensor that overflows.
    """
    if step.rule is None:
        yield from _copied(step)
        return
    method, weights = step.rule.method, step.rule.weights
    width = _count(step.shape[1:])
    bounds = [*(rows * width for rows in step.edges), _count(step.shape)]
    shared = _operands(step, weights, 0, bounds[0])
    measured = method.measure(shared)
    for piece in shared.pieces(method.unit):
        yield _rounded(step, method.combine(piece, measured), piece)
    for start, stop in itertools.pairwise(bounds):
        having = [i for i, place in enumerate(step.inputs) if _count(place.source.shape(place.name)) >= stop]
        for piece in _operands(step, weights, start, stop).pieces():
            yield _rounded(step, _added_rows(piece, having), piece)


def whole(step: Step) -> Tensor:
    """The whole result of a step."""
    found = list(pieces(step))
    return (torch.cat(found) if found else torch.empty(0, dtype=step.dtype)).reshape(step.shape)


def _operands(step: Step, weights: tuple[float, ...], start: int, stop: int) -> Operands:
    inputs: tuple[Readable, ...] = tuple(place.source.read(place.name) for place in step.inputs)
    origin = None if step.base is None else step.base.source.read(step.base.name)
    known = tuple(place.source.statistic(place.name) for place in step.inputs)
    return Operands(step.name, step.shape, inputs, weights, origin, step.arithmetic, start, stop, known)


def _copied(step: Step) -> Iterator[Tensor]:
    assert step.copied is not None
    stored = step.copied.source.stored(step.copied.name)
    if stored is None:  # a delta that is copied alone
        yield from _values(step, step.copied)
        return
    flat = stored.reshape(-1)
    for start in range(0, flat.numel(), 4 * PIECE):
        piece = flat[start : start + 4 * PIECE]
        if not _finite(piece):
            raise _broken(step.copied)
        yield piece if piece.dtype == step.dtype else piece.to(step.dtype)


def _values(step: Step, place: Place) -> Iterator[Tensor]:
    read = place.source.read(place.name)
    for start in range(0, _count(step.shape), PIECE):
        exact = read.value(start, min(start + PIECE, _count(step.shape)), step.arithmetic)
        found = exact.to(step.dtype)
        if not _fits(exact, step.dtype) and not _finite(found):
            raise _broken(place)
        yield found


def _added_rows(piece: Operands, having: list[int]) -> Tensor:
    """Rows that only some models have: the weighted mean of those."""
    weights = [piece.weights[i] for i in having]
    if sum(weights) == 0:
        weights = [1.0] * len(having)
    out = torch.zeros(piece.stop - piece.start, dtype=piece.dtype)
    for i, weight in zip(having, weights, strict=True):
        out.add_(piece.value(i), alpha=weight / sum(weights))
    return out


def _rounded(step: Step, result: Tensor, piece: Operands) -> Tensor:
    found = result.to(step.dtype)
    if not _fits(result, step.dtype) and not _finite(found):
        read = list(zip(step.inputs, piece.inputs, strict=True))
        if step.base is not None and piece.origin is not None:
            read.append((step.base, piece.origin))
        for place, tensor in read:
            if not _finite(tensor.value(piece.start, piece.stop, piece.dtype)):
                raise _broken(place)
        raise DeltaMismatch(f"{step.name}: the result is too large for {step.dtype}; are the weights as meant?")
    return found


def _fits(exact: Tensor, dtype: torch.dtype) -> bool:
    """Whether every number surely is finite in a type; the unrounded ones are asked, which are quicker to read."""
    if not exact.numel() or not (exact.is_floating_point() and dtype.is_floating_point):
        return False
    low, high = exact.aminmax()  # NaN, where there is one
    limit = torch.finfo(dtype).max
    return -limit <= low.item() and high.item() <= limit


def _finite(piece: Tensor) -> bool:
    if not piece.is_floating_point():
        return True
    values = piece.float() if piece.dtype.itemsize == 1 else piece
    # NaN and infinity survive in a sum, which is quicker; large finite values may overflow one.
    return bool(values.sum(dtype=torch.float32).isfinite()) or bool(values.isfinite().all())


def _broken(place: Place) -> DeltaMismatch:
    return DeltaMismatch(f"{place.source.label}: NaN or infinite values in {place.name}; this model cannot be merged")


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
