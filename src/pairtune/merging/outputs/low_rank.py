"""Changes that are products of thin factors: sums of them stay so, others are brought near to one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pairtune.merging.engine.plan import Step
from pairtune.merging.inputs.sources import Source
from pairtune.pair.combine import plus
from pairtune.pair.parts import LowRank, Part, Sparse

EXACT = 1536  # a matrix with a side of at most this is decomposed exactly, a larger one by a randomised method


def compact_sum(step: Step) -> LowRank | Sparse | None:
    """The step's change as factors or as places with values, where every model's is that and the method is a sum.

    Exact: the factors are put side by side, the places united. None where the result has to be dense.
    """
    if step.rule is None or not step.rule.method.linear or step.base is None or step.edges:
        return None
    scales = step.rule.method.scales(step.rule.weights)
    if "base" not in step.rule.method.needs and abs(sum(scales) - 1) > 1e-9:
        return None  # the base itself would be rescaled
    total: Part | None = None
    for place, scale in zip(step.inputs, scales, strict=True):
        part = place.source.part(place.name)
        if part is None and place.source.tensors is step.base.source.tensors:
            continue  # this model leaves the tensor as it is
        if not isinstance(part, LowRank | Sparse) or (total is not None and total.kind != part.kind):
            return None
        total = part.scaled(scale) if total is None else plus(total, part, scale)
    return total if isinstance(total, LowRank | Sparse) else None


def is_own(step: Step, base: Source) -> bool:
    """Whether the step only copies the base's tensor, so that there is no change."""
    place = step.copied
    return place is not None and place.source.tensors is base.tensors and place.source.part(place.name) is None


def truncated(change: Tensor | LowRank, rank: int) -> tuple[LowRank, float, float]:
    """The nearest product of rank `rank` to a matrix [out, in], the norm of what is lost, and that of the change.

    Exact by singular values where the change is a product already or has a side of at most `EXACT`; else by a
    randomised decomposition with ten extra columns and four passes, always with the same random numbers (Halko et al.,
    arXiv 0909.4061).
    """
    if isinstance(change, LowRank):
        left, right = torch.linalg.qr(change.B.double()), torch.linalg.qr(change.A.double().T)
        u, s, vh = torch.linalg.svd(left.R @ right.R.T * change.scale, full_matrices=False)
        u, vh, total = left.Q @ u, vh @ right.Q.T, float(torch.linalg.vector_norm(s))
    else:
        total = float(torch.linalg.vector_norm(change, dtype=torch.float64))
        if min(change.shape) <= EXACT:
            u, s, vh = torch.linalg.svd(change, full_matrices=False)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                u, s, v = torch.svd_lowrank(change, q=min(rank + 10, *change.shape), niter=4)
            vh = v.T
    root = s[:rank].sqrt()
    kept = float(torch.linalg.vector_norm(s[:rank], dtype=torch.float64))
    b, a = (u[:, :rank] * root).float().contiguous(), (root[:, None] * vh[:rank]).float().contiguous()
    return LowRank(a, b), math.sqrt(max(total**2 - kept**2, 0.0)), total
