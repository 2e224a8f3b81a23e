"""Spreads over seeds: the ratio of two arms' standard deviations with its interval, and failed runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pairtune.reproductions.frame import LEVEL, RESAMPLES


def steadiness(means: Sequence[float]) -> np.ndarray:
    """[seeds] −|value − median|: its difference between two arms is the Brown-Forsythe contrast of their spreads."""
    values = np.asarray(means, dtype=float)
    return -np.abs(values - np.median(values))


def ratio_of_spreads(method: np.ndarray, baseline: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Standard deviation of the method's [seeds] values over the baseline's, and its 90 % bootstrap interval.

    The same seeds are drawn for both. Draws in which the baseline does not vary are left out; with few seeds the
    interval is too narrow rather than too wide.
    """
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        chosen = generator.integers(0, len(method), len(method))
        below = baseline[chosen].std(ddof=1)
        if below > 0:
            drawn.append(method[chosen].std(ddof=1) / below)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(method.std(ddof=1) / baseline.std(ddof=1)), float(low), float(high)


def table(values: Mapping[str, np.ndarray], baseline: str) -> dict[str, dict[str, Any]]:
    """For each arm of one setting: mean and standard deviation of its [seeds] values; against the baseline: the ratio
    of standard deviations with its interval, and the difference of means in the baseline's standard errors."""
    reference = values[baseline]
    error = float(reference.std(ddof=1) / np.sqrt(len(reference)))
    found: dict[str, dict[str, Any]] = {}
    for arm, own in values.items():
        found[arm] = {"mean": float(own.mean()), "sd": float(own.std(ddof=1))}
        if arm != baseline and reference.std() > 0 and len(own) == len(reference):
            ratio, low, high = ratio_of_spreads(own, reference)
            gap = float(own.mean() - reference.mean())
            found[arm] |= {"ratio of sd": ratio, "interval": [low, high], "standard errors": gap / error}
    return found
