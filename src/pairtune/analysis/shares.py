"""A share of some items, with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """`right` of `of`, with Wilson's 95 % interval."""

    right: int
    of: int
    share: float
    low: float
    high: float

    @classmethod
    def count(cls, right: Sequence[bool]) -> Share | None:
        """None of nothing."""
        if not len(right):
            return None
        from scipy.stats import binomtest

        interval = binomtest(sum(right), len(right)).proportion_ci(method="wilson")
        return cls(sum(right), len(right), sum(right) / len(right), float(interval.low), float(interval.high))
