"""Two models over the same items: the difference with its uncertainty, and which items flipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 2000
ENDS = (0.025, 0.975)  # quantiles of a 95 % interval


@dataclass(frozen=True)
class Difference:
    """Mean of `after − before` over items, its 95 % bootstrap interval, and for right/wrong items McNemar's test.

    Attributes:
        fixed, broken: indices of the items that became right, and wrong; None where outcomes are not right or wrong.
        p_value: exact McNemar test; None likewise.
    """

    mean: float
    low: float
    high: float
    p_value: float | None = None
    fixed: list[int] | None = None
    broken: list[int] | None = None

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return not self.low <= 0 <= self.high

    def tone(self, rising: bool) -> Literal["good", "bad"] | None:
        """Good or bad news where the difference is clear; `rising`: whether more is better."""
        return None if not self.clear else "good" if (self.mean > 0) == rising else "bad"


def resampled(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """[RESAMPLES] means of as many of the [N] values, drawn with replacement."""
    generator = np.random.default_rng(seed)
    return np.array([values[generator.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)])


def compare(before: np.ndarray, after: np.ndarray, seed: int = 0) -> Difference:
    """Compare two models' outcomes item by item ([N] each, in the same order)."""
    if before.shape != after.shape:
        raise ValueError(f"the outcomes are of {before.shape} and {after.shape} items")
    gap = after - before
    low, high = np.quantile(resampled(gap, seed), ENDS)
    result = float(gap.mean()), float(low), float(high)
    if not np.isin(np.concatenate([before, after]), (0.0, 1.0)).all():
        return Difference(*result)
    fixed, broken = np.flatnonzero(gap > 0).tolist(), np.flatnonzero(gap < 0).tolist()
    flips = len(fixed) + len(broken)
    p_value = float(binomtest(len(fixed), flips).pvalue) if flips else 1.0
    return Difference(*result, p_value=p_value, fixed=fixed, broken=broken)
