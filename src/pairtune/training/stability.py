"""How much of a result is luck: one configuration tuned with several seeds, summed up.

Protocol of Tinn et al., arXiv 2112.07869 (its details were not re-read): mean, spread and extremes over seeds, and the
share of failed runs. A run has failed when it met NaN, when it is not better than the answer that needs no text (the
most frequent label, the mean of the numbers), or when its training loss did not fall below 0.9 of where it began.

What the best of n seeds can be expected to reach is Dodge et al., "Show Your Work", arXiv 1909.03004: with the N found
values sorted, v(1) ≤ … ≤ v(N),

    E[max of n] = Σ_i v(i) · ((i/N)^n − ((i−1)/N)^n)        n draws with replacement from the N; the min likewise
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
FALL = 0.9


@dataclass(frozen=True)
class SeedRun:
    """One seed's outcome.

    Attributes:
        value: the deciding metric on validation at the state that was kept; None for a run that broke off.
        losses: training loss at the first step and at the last line of the log; None where the log has not both.
        failed: why it counts as failed; None for a good run.
    """

    seed: int
    value: float | None
    metrics: dict[str, float]
    losses: tuple[float, float] | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Stability:
    """One configuration over several seeds.

    Attributes:
        metric, rising: what was measured on validation, and whether more of it is better.
        baseline: the metric's value for the answer that needs no text; None where the task has none.
        mean, std: over the runs that have a value, failed ones too, each with a 95 % interval (Student's t; χ², both
            exact for normal values only); None with fewer than two values.
        best: seed of the best value; expected_best: n → what the best of n seeds can be expected to reach.
        asked: how many seeds were asked for (more than there are runs where the rest is still to come).
    """

    metric: str
    rising: bool
    runs: list[SeedRun]
    baseline: float | None
    mean: float | None
    mean_interval: tuple[float, float] | None
    std: float | None
    std_interval: tuple[float, float] | None
    low: float | None
    high: float | None
    best: int | None
    expected_best: dict[int, float]
    asked: int

    @property
    def failed(self) -> int:
        """How many runs have failed."""
        return sum(run.failed is not None for run in self.runs)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "failed": self.failed}


def stability(
    runs: Sequence[SeedRun], metric: str, rising: bool, baseline: float | None = None, asked: int | None = None
) -> Stability:
    """Sum up the runs of one configuration. `runs` may have failed ones; those without a value only count as failed."""
    values = np.array([run.value for run in runs if run.value is not None])
    known = [run for run in runs if run.value is not None]
    spread = _spread(values) if len(values) > 1 else (None, None, None)
    best = (max if rising else min)(known, key=lambda run: run.value or 0.0).seed if known else None
    return Stability(
        metric=metric,
        rising=rising,
        runs=list(runs),
        baseline=baseline,
        mean=float(values.mean()) if len(values) else None,
        mean_interval=spread[0],
        std=spread[1],
        std_interval=spread[2],
        low=float(values.min()) if len(values) else None,
        high=float(values.max()) if len(values) else None,
        best=best,
        expected_best={n: expected_best(values, n, rising) for n in range(1, len(values) + 1)},
        asked=len(runs) if asked is None else asked,
    )


def expected_best(values: np.ndarray, n: int, rising: bool = True) -> float:
    """Expected best of `n` values drawn with replacement from those found (equation above)."""
    ordered = np.sort(values if rising else -values)
    share = np.arange(len(ordered) + 1) / len(ordered)
    best = float((ordered * np.diff(share**n)).sum())
    return best if rising else -best


def why_failed(
    value: float, rising: bool, baseline: float | None, losses: tuple[float, float] | None, kind: str
) -> str | None:
    """Why a finished run counts as failed, in one clause; None for a good one.

    The rule on the training loss is for labels and numbers: a language model that is tuned begins near where it ends.
    """
    if baseline is not None and (value <= baseline if rising else value >= baseline):
        answer = "the mean alone" if kind == "regression" else "the most frequent label alone"
        return f"not better than {answer} ({value:.4g} against {baseline:.4g})"
    if losses is not None and kind in ("classification", "multilabel", "regression") and losses[1] > FALL * losses[0]:
        return f"training loss {losses[0]:.4g} → {losses[1]:.4g}, not below {FALL} of its start"
    return None


def text_free(metric: str, kind: str, train: Sequence[Any], held: Sequence[Any]) -> float | None:
    """What the metric is on the held rows for the best answer that needs no text; None where there is no such answer.

    Args:
        metric: "accuracy" or "loss" (mean cross-entropy in nats) of classes; "loss" (mean squared error) or
            "absolute_error" of numbers.
        train, held: targets: class indices or numbers. The answer is made from `train`: its most frequent class, its
            class frequencies, its mean.
    """
    if kind == "classification" and len(train):
        classes, counts = np.unique(np.asarray(train), return_counts=True)
        if metric == "accuracy":
            return float(np.mean(np.asarray(held) == classes[counts.argmax()]))
        if metric == "loss":
            share: Mapping[Any, float] = dict(zip(classes.tolist(), (counts / counts.sum()).tolist(), strict=True))
            # A class that training has not is given half a row.
            return float(-np.mean(np.log([share.get(label, 0.5 / len(train)) for label in held])))
    if kind == "regression" and len(train):
        gap = np.asarray(held, dtype=float) - np.mean(np.asarray(train, dtype=float))
        return {"loss": float(np.mean(gap**2)), "absolute_error": float(np.mean(np.abs(gap)))}.get(metric)
    return None


def _spread(values: np.ndarray) -> tuple[tuple[float, float], float, tuple[float, float]]:
    """Interval of the mean, standard deviation, its interval."""
    from scipy import stats

    free, std, tail = len(values) - 1, float(values.std(ddof=1)), (1 - LEVEL) / 2
    reach = float(stats.t.ppf(1 - tail, free)) * std / np.sqrt(len(values))
    mean = float(values.mean())
    around = [std * float(np.sqrt(free / stats.chi2.ppf(one, free))) for one in (1 - tail, tail)]
    return (mean - reach, mean + reach), std, (around[0], around[1])
