"""What the eigenvalues of a tangent kernel say: condition, effective rank, alignment, and how layers' kernels add up.

All in float64. A kernel of fewer weights than rows, or of rows that are alike, has eigenvalues of 0: a millionth of
their mean is added to each (`EPSILON`), so that a condition number exists and does not depend on the kernel's scale.

For layers S inside T, K_T = K_S + K_{T∖S} with all three positive semi-definite, so that (Weyl)

    σ_i(K_S) ≤ σ_i(K_T) ≤ σ_i(K_S) + ‖K_{T∖S}‖,      κ(K_T) ≤ (σ_1(K_S) + ‖K_{T∖S}‖) / σ_n(K_S)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

EPSILON = 1e-6


@dataclass(frozen=True)
class KernelFacts:
    """One kernel [n, n].

    Attributes:
        trace: sum of the eigenvalues. condition: largest over smallest, `EPSILON` of the mean added to both.
        effective_rank: (Σσ)² / Σσ², from 1 to n: over how many directions of answers it is spread.
        alignment: ⟨K, Y Yᵀ⟩ / (‖K‖ ‖Y Yᵀ‖), 0 to 1, with Y the centred targets; None without targets.
    """

    trace: float
    condition: float
    effective_rank: float
    alignment: float | None


@dataclass(frozen=True)
class Step:
    """A layer added to a set: the set's condition then, and the bound on it from what was there before (if any was)."""

    layer: str
    condition: float
    bound: float | None


def spectrum(kernel: np.ndarray) -> np.ndarray:
    """Eigenvalues, falling; those that rounding made negative are 0."""
    return np.clip(np.linalg.eigvalsh((kernel + kernel.T) / 2)[::-1], 0.0, None)


def facts(kernel: np.ndarray, targets: np.ndarray | None = None) -> KernelFacts:
    """The facts of a kernel.

    Args:
        targets: [n, C], centred.
    """
    values = spectrum(kernel)
    total, squares = float(values.sum()), float((values**2).sum())
    aligned = None
    if targets is not None and total > 0:
        outer = targets @ targets.T
        size = np.linalg.norm(outer)
        aligned = float((kernel * outer).sum() / (np.sqrt(squares) * size)) if size > 0 else None
    return KernelFacts(total, condition(values), total**2 / squares if squares > 0 else 0.0, aligned)


def condition(values: np.ndarray) -> float:
    """Largest over smallest of falling eigenvalues, `EPSILON` of the mean added; infinite for a kernel of zeros."""
    small = EPSILON * float(values.mean())
    return float((values[0] + small) / (values[-1] + small)) if small > 0 else float("inf")


def condition_bound(part: np.ndarray, rest: np.ndarray) -> float:
    """The most that the condition of K_S + K_rest can be, from the eigenvalues of K_S and the norm of K_rest."""
    values, more = spectrum(part), float(spectrum(rest)[0])
    # The mean's millionth grows with what is added; its smallest value is that of S alone.
    low, high = EPSILON * float(values.mean()), EPSILON * float(np.trace(part + rest)) / len(part)
    return float((values[0] + more + high) / (values[-1] + low)) if low > 0 else float("inf")


def bounds(part: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds on the eigenvalues of K_S + K_rest, falling, without looking at the sum."""
    values = spectrum(part)
    return values, values + spectrum(rest)[0]


def forward_selection(kernels: Mapping[str, np.ndarray]) -> list[Step]:
    """Layers in the order in which adding each lowers the condition of all chosen ones most.

    Kernels are taken as they are: a layer with large gradients weighs more, as it would in tuning with one rate.
    """
    left, chosen, steps = dict(kernels), None, []
    while left:
        sums = {name: kernel if chosen is None else chosen + kernel for name, kernel in left.items()}
        conditions = {name: condition(spectrum(kernel)) for name, kernel in sums.items()}
        best = min(conditions, key=lambda name: conditions[name])
        bound = None if chosen is None else condition_bound(chosen, left[best])
        steps.append(Step(best, conditions[best], bound))
        chosen = sums[best]
        del left[best]
    return steps


def regression(kernel: np.ndarray, across: np.ndarray, residual: np.ndarray, weight: float) -> np.ndarray:
    """What tuning the linearised model on squares with a pull of this weight to the base adds to its answers.

        K(x, X) (K + λ I)⁻¹ (y − f_0(X))

    Args:
        kernel: [n, n] of the training rows. across: [m, n] between the asked rows and those. residual: [n] or [n, C].
    """
    return across @ np.linalg.solve(kernel + weight * np.eye(len(kernel)), residual)
