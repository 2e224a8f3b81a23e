"""How well a score separates: AUROC, AUPR both ways and FPR at 95 % TPR, on ranks, with bootstrap intervals.

Out of distribution is the positive class throughout. Scores are never squashed through a sigmoid: only their order
counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from pairtune.errors import InputError


@dataclass(frozen=True)
class Separation:
    """One detector's separation of ID from OOD scores; each figure with its 95 % bootstrap interval.

    Attributes:
        auroc, aupr_out, aupr_in: areas in [0, 1]; fpr95: the share of ID inputs flagged when 95 % of OOD ones are.
    """

    auroc: tuple[float, float, float]
    aupr_out: tuple[float, float, float]
    aupr_in: tuple[float, float, float]
    fpr95: tuple[float, float, float]


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """P(an OOD score is above an ID score), ties counted half (Mann-Whitney)."""
    ranks = rankdata(np.concatenate([inside, outside]))[len(inside) :]
    return float((ranks.sum() - len(outside) * (len(outside) + 1) / 2) / (len(inside) * len(outside)))


def fpr_at_95(inside: np.ndarray, outside: np.ndarray) -> float:
    """The share of ID scores at or above the threshold that catches 95 % of the OOD ones."""
    threshold = np.quantile(outside, 0.05, method="lower")
    return float((inside >= threshold).mean())


def figures(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float, float, float]:
    """(AUROC, AUPR with OOD positive, AUPR with ID positive, FPR at 95 % TPR)."""
    truth = np.concatenate([np.zeros(len(inside)), np.ones(len(outside))])
    scores = np.concatenate([inside, outside])
    return (
        auroc(inside, outside),
        float(average_precision_score(truth, scores)),
        float(average_precision_score(1 - truth, -scores)),
        fpr_at_95(inside, outside),
    )


def separation(inside, outside, resamples: int = 300, seed: int = 0) -> Separation:
    """All figures with intervals, ID and OOD items resampled apart.

    Args:
        inside, outside: scores of ID and OOD items (higher = more OOD), at least one each, all finite.

    Raises `InputError` for an empty side or a score that is NaN.
    """
    inside, outside = np.asarray(inside, dtype=np.float64), np.asarray(outside, dtype=np.float64)
    for name, side in (("in-distribution", inside), ("out-of-distribution", outside)):
        if len(side) == 0:
            raise InputError(f"there is no {name} item to score against")
        if not np.isfinite(side).all():
            raise InputError(f"{int((~np.isfinite(side)).sum())} {name} scores are NaN or infinite")
    generator = np.random.default_rng(seed)
    drawn = np.array(
        [
            figures(generator.choice(inside, len(inside)), generator.choice(outside, len(outside)))
            for _ in range(resamples)
        ]
    )
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0) if resamples else np.full((2, 4), np.nan)
    point = figures(inside, outside)
    return Separation(*((point[i], float(low[i]), float(high[i])) for i in range(4)))
