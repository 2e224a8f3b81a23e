"""Singular values of a change, and how many directions it really has.

Effective rank (Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007): the
exponential of the entropy of the normalised singular values, p_i = s_i / sum(s). It is n for n equal values.
Stable rank: ‖D‖_F² / s_1², never above the rank; a few large values dominate it.

A product of thin factors is decomposed through their QR, without being formed. A matrix whose smaller side is at most
1,024 is decomposed exactly, through its Gram matrix in float64 (values below 1e-8 of the largest are not resolved).
Above, the largest values come from a randomised subspace iteration (Halko, Martinsson and Tropp, arXiv 0909.4061) and
the entropy from stochastic Lanczos quadrature (Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 2017): the sums of s
and of s log s are traces of functions of D^T D. That costs some products with D instead of a decomposition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pairtune.pair.compact import LowRank
from pairtune.pair.part import Part, wide

EXACT = 1024  # smaller side up to which a matrix is decomposed exactly
TOP = 64  # singular values that are kept
PROBES, STEPS = 12, 48  # of the quadrature: random vectors, Lanczos steps
ROWS = 1 << 14  # rows of a tall matrix that enter its Gram matrix at once


@dataclass(frozen=True)
class Spectrum:
    """What the singular values of one change say.

    Attributes:
        values: the largest, descending, at most 64.
        effective_rank, stable_rank: as above; 0 where nothing changed.
        full: the most that either can be (the smaller side, or the factors' rank).
        exact: False where a large matrix was estimated (to a few per cent).
        changed: share of the entries that are not zero; None for a product of factors, which is never looked at whole.
    """

    values: list[float]
    effective_rank: float
    stable_rank: float
    full: int
    exact: bool
    changed: float | None


def spectrum(part: Part, base: Tensor | None = None) -> Spectrum:
    """The spectrum of one change of at least two dimensions; further ones are laid beside the second.

    Holds the dense change of this one tensor (float32), but for low-rank parts. Raises as `Part.difference`.
    """
    if isinstance(part, LowRank):
        left, right = (torch.linalg.qr(wide(one.detach()), mode="r").R for one in (part.B, part.A.T))
        values = torch.linalg.svdvals(part.scale * left @ right.T)
        return _summed(values, min(part.rank, *part.shape), None)
    found = part.difference(base).detach().cpu()
    matrix = found.reshape(found.shape[0], -1)
    changed = float(torch.count_nonzero(matrix)) / max(matrix.numel(), 1)
    matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    if matrix.shape[1] <= EXACT or not changed:
        return _summed(_exact(matrix), matrix.shape[1], changed)
    return estimated(matrix, changed)


def share_changed(part: Part, base: Tensor | None = None) -> float | None:
    """Share of a change's entries that are not zero; None for a product of factors."""
    if isinstance(part, LowRank):
        return None
    found = part.difference(base)
    return float(torch.count_nonzero(found)) / max(found.numel(), 1)


def estimated(matrix: Tensor, changed: float | None = None, seed: int = 0) -> Spectrum:
    """The spectrum of a large matrix [m, n], m ≥ n > 80, from products with it alone.

    The space of the largest values is found first and taken out of the quadrature, whose error is that of the rest.
    """
    generator = torch.Generator().manual_seed(seed)
    space = torch.randn(matrix.shape[1], TOP + 16, generator=generator)
    for _ in range(4):
        space = torch.linalg.qr(matrix.T @ (matrix @ space)).Q
    top = torch.linalg.svdvals((matrix @ space).double())
    energy = float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2
    nodes, weights = _quadrature(matrix, space.double(), generator)
    values, weights = torch.cat([top, nodes.sqrt().flatten()]), torch.cat([torch.ones_like(top), weights.flatten()])
    total = float((weights * values).sum())
    entropy = math.log(total) - float((weights * torch.special.xlogy(values, values)).sum()) / total
    return Spectrum(top[:TOP].tolist(), math.exp(entropy), energy / float(top[0]) ** 2, matrix.shape[1], False, changed)


def _exact(matrix: Tensor) -> Tensor:
    gram = torch.zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64)
    for rows in matrix.split(ROWS):
        rows = rows.double()
        gram += rows.T @ rows
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)


def _summed(values: Tensor, full: int, changed: float | None) -> Spectrum:
    largest = float(values[0]) if len(values) else 0.0
    if largest == 0.0:
        return Spectrum([], 0.0, 0.0, full, True, changed)
    values = torch.where(values > 1e-8 * largest, values, 0.0)
    shares = values / values.sum()
    effective = math.exp(-float(torch.special.xlogy(shares, shares).sum()))
    kept = values[:TOP]
    return Spectrum(kept[kept > 0].tolist(), effective, float((values**2).sum()) / largest**2, full, True, changed)


def _quadrature(matrix: Tensor, space: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Nodes and weights with which sum(weights · f(nodes)) ≈ trace f(DᵀD) outside of `space` [n, k], by Lanczos."""
    n = matrix.shape[1]

    def outside(vectors: Tensor) -> Tensor:
        return vectors - space @ (space.T @ vectors)

    vector = outside(torch.randn(n, PROBES, generator=generator, dtype=torch.float64))
    basis, diagonal, beside = [vector / vector.norm(dim=0)], [], []
    for _ in range(min(STEPS, n - space.shape[1])):
        image = outside((matrix.T @ (matrix @ basis[-1].to(matrix))).double())
        diagonal.append((image * basis[-1]).sum(0))
        for _ in range(2):  # twice is enough: Lanczos loses orthogonality otherwise
            for one in basis:
                image -= one * (one * image).sum(0)
        beside.append(image.norm(dim=0))
        basis.append(image / beside[-1].clamp(min=1e-300))
    small = torch.diag_embed(torch.stack(diagonal, -1))
    off = torch.stack(beside[:-1], -1)
    small += torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    nodes, vectors = torch.linalg.eigh(small)
    return nodes.clamp(min=0), vectors[:, 0, :] ** 2 * ((n - space.shape[1]) / PROBES)
