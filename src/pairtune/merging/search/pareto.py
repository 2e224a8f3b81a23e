"""Several objectives at once: one scalar for an optimiser at a time, and the points that none is better than in all.

Knowles, "ParEGO: A Hybrid Algorithm With On-Line Landscape Approximation for Expensive Multiobjective Optimization
Problems" (IEEE TEC 2006), as MedSAMix (arXiv 2508.11032) uses it: every step looks through another weighting.

    f = max_k w_k c_k + rho sum_k w_k c_k        c_k: cost k, from 0 (lowest so far) to 1; w uniform on the simplex

The costs are normalised anew at every step, since the extremes move. rho = 0.05.
"""

from __future__ import annotations

import numpy as np

RHO = 0.05


def scalarised(costs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """[N] one cost a point out of [N, K]; with one objective that one itself."""
    if costs.shape[1] == 1:
        return costs[:, 0]
    weights = generator.dirichlet(np.ones(costs.shape[1]))
    low, high = costs.min(0), costs.max(0)
    scaled = (costs - low) / np.where(high > low, high - low, 1.0)
    return (weights * scaled).max(1) + RHO * (weights * scaled).sum(1)


def front(costs: np.ndarray) -> list[int]:
    """The points [N, K] than which no other is at least as good in all objectives and better in one; of equal ones all.

    In their order. Points with a cost that is not finite are on no front.
    """
    there = np.flatnonzero(np.isfinite(costs).all(1)).tolist()
    good = costs[there]
    return [i for i in there if not ((good <= costs[i]).all(1) & (good < costs[i]).any(1)).any()]
