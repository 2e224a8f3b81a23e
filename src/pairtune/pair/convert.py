"""The same change stored as another kind, where that loses nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pairtune.errors import DeltaMismatch, InputError
from pairtune.pair.part import frobenius, wide
from pairtune.pair.parts import Dense, LowRank, Module, Part, Rows, Sparse

KINDS = ("dense", "sparse", "low-rank")


def convert(part: Part, kind: str, base: Tensor | None = None, rank: int | None = None) -> Part:
    """A part as another kind.

    A module is handed back as it is, and of added rows the change of the old ones is converted.

    Args:
        kind: "dense", "sparse" (exact zeros are left out) or "low-rank".
        base: the base's tensor, for values.
        rank: the most that a low-rank part may have; None takes the rank that there is, if that saves room.

    Raises `DeltaMismatch` where the change has too high a rank, and says which rank would do.
    """
    if kind not in KINDS:
        raise InputError(f"there is no conversion to {kind!r}; expected one of {', '.join(KINDS)}")
    if isinstance(part, Module):
        return part
    if isinstance(part, Rows):
        return part if part.old is None else Rows(part.first_row, part.rows, convert(part.old, kind, base, rank))
    if kind == "dense":
        return to_dense(part, base)
    return to_sparse(part, base) if kind == "sparse" else to_low_rank(part, base, rank)


def to_dense(part: Part, base: Tensor | None = None) -> Dense:
    """The difference itself, in float32 (float64 where a tensor is float64)."""
    if isinstance(part, Dense):
        return part
    return Dense(part.difference(base, part.arithmetic(*(() if base is None else (base.dtype,)))))


def to_sparse(part: Part, base: Tensor | None = None) -> Sparse:
    """Only what differs from zero, in the stored type of a dense or sparse part."""
    if isinstance(part, Sparse):
        kept = part.values != 0
        return part if bool(kept.all()) else Sparse(part.shape, part.index[kept], part.values[kept])
    flat = to_dense(part, base).diff.reshape(-1)
    index = flat.nonzero().squeeze(1)
    return Sparse(part.shape, index, flat[index])


def to_low_rank(part: Part, base: Tensor | None = None, rank: int | None = None) -> LowRank:
    """The thinnest factors with the same product, up to the rounding of the stored numbers.

    The rank is that of a singular value decomposition in float64; values below max(d_out, d_in) · ε · the largest count
    as zero, with the ε of float32 (that of float64 where a tensor is float64).
    """
    if len(part.shape) != 2:
        raise DeltaMismatch(f"a tensor of the shape {list(part.shape)} cannot be low-rank; only matrices can")
    if not part.is_finite():
        raise DeltaMismatch("it holds NaN or infinity, so that it has no rank")
    if isinstance(part, LowRank):
        u, s, v, noise = _of_factors(part)
    else:
        u, s, v = torch.linalg.svd(wide(to_dense(part, base).diff), full_matrices=False)
        noise = 0.0
    dtype = part.arithmetic(*(() if base is None else (base.dtype,)))
    tolerance = max(part.shape) * max(torch.finfo(dtype).eps * float(s[0]) if len(s) else 0.0, noise)
    needed = int((s > tolerance).sum())
    _check_rank(part, needed, rank)
    if isinstance(part, LowRank) and needed >= part.rank:
        return part
    root = s[:needed].sqrt()
    b, a = u[:, :needed] * root, root[:, None] * v[:needed]
    return LowRank(a.to(dtype).contiguous(), b.to(dtype).contiguous())


def _of_factors(part: LowRank) -> tuple[Tensor, Tensor, Tensor, float]:
    """SVD of scale · B A through the QR of its factors, and the level below which it is their rounding in float64."""
    left, right = torch.linalg.qr(wide(part.B)), torch.linalg.qr(wide(part.A.T))
    u, s, v = torch.linalg.svd(part.scale * left.R @ right.R.T, full_matrices=False)
    noise = torch.finfo(torch.float64).eps * abs(part.scale) * frobenius(part.A) * frobenius(part.B)
    return left.Q @ u, s, v @ right.Q.T, noise


def _check_rank(part: Part, needed: int, rank: int | None) -> None:
    if rank is not None and needed > rank:
        raise DeltaMismatch(
            f"its numerical rank is {needed}, so that rank {rank} would lose some of it; use rank={needed}"
        )
    if rank is None and not isinstance(part, LowRank) and needed * sum(part.shape) >= math.prod(part.shape) > 0:
        raise DeltaMismatch(
            f"its numerical rank is {needed}, so that factors would take more room than {list(part.shape)}; "
            f"keep it {part.kind}, or ask for rank={needed}"
        )
