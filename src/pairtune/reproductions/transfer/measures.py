"""From the accuracies of bases, tuned and moved models to what the claim is about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from pairtune.reproductions.frame import Results
from pairtune.reproductions.transfer.bases import ALONE, RUN

TEST = "test"
LATE = ((3, 4), (4, 3), (4, 5), (5, 4))
FAR = 3  # steps of the run between bases that count as far from one another
NEXT = {j: [i for i in RUN if abs(i - j) == 1] for j in RUN}
DISTANT = {j: [i for i in RUN if abs(i - j) >= FAR] for j in RUN}
DISTANT = {j: sources for j, sources in DISTANT.items() if sources}
RECYCLED, DIRECT = "M5, recycled from M1 on", "M5, tuned at once"
FIRST_ON_LAST = "M5 + delta of M1, tuned"
PAIRS = [(i, j) for i in RUN for j in RUN if i != j]
CONTROL = [(ALONE, j) for j in RUN] + [(i, ALONE) for i in RUN]


def base(i: int) -> str:
    """Name of the arm: base number i as it is."""
    return f"M{i}"


def tuned(i: int) -> str:
    """Name of the arm: base number i, tuned."""
    return f"FT(M{i})"


def moved(i: int, j: int) -> str:
    """Name of the arm: what tuning added to base i, added to base j."""
    return f"M{j} + delta of M{i}"


def recovered(accuracy: dict[str, float], i: int, j: int) -> float | None:
    """R = (acc(M_j + Delta_i) - acc(M_j)) / (acc(FT(M_j)) - acc(M_j)); None where tuning gained nothing."""
    gain = accuracy[tuned(j)] - accuracy[base(j)]
    return (accuracy[moved(i, j)] - accuracy[base(j)]) / gain if gain > 0 else None


def rank(shares: Iterable[float | None], heights: Iterable[float]) -> float:
    """Spearman's correlation of R and -barrier over the pairs that have both; 0 where either is constant."""
    both = [(share, -height) for share, height in zip(shares, heights, strict=True) if share is not None]
    first, second = ([one[i] for one in both] for i in (0, 1))
    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    found: Any = spearmanr(first, second)
    return float(found.statistic)


def mean_of(outcomes: dict[str, np.ndarray], arms: list[str]) -> np.ndarray:
    """[N] mean over arms, row by row."""
    return np.mean([outcomes[arm] for arm in arms], axis=0)


def halvings(direct: list[float], begun: list[float], begin: float, end: float, every: int) -> float:
    """log2 of how many times fewer steps the moved start needs to come to begin + 0.9 (end - begin).

    The curves hold accuracies after every `every` steps, which is the fewest that count. One that never comes there
    counts as one state more than it has.
    """
    wanted = begin + 0.9 * (end - begin)
    steps = [
        every * (1 + next((i for i, value in enumerate(curve) if value >= wanted), len(curve)))
        for curve in (direct, begun)
    ]
    return float(np.log2(steps[0] / steps[1]))


def sum_up(results: Results, every: int) -> None:
    """The arms that the claim compares, from those that were measured, for every seed that is whole."""
    ratios: dict[str, dict[str, float | None]] = {}
    for seed in sorted(results.outcomes.get(moved(4, 5), {})):
        rows = {arm: runs.get(seed, {}).get(TEST) for arm, runs in results.outcomes.items()}
        known = {arm: np.array(values) for arm, values in rows.items() if values is not None}
        accuracy = {arm: float(values.mean()) for arm, values in known.items()}
        for arm, values in _arms(known).items():
            results.add(arm, seed, {TEST: values})
        shares = {f"{i} on {j}": recovered(accuracy, i, j) for i, j in PAIRS + CONTROL}
        ratios[str(seed)] = shares
        barriers = results.notes["barriers"][str(seed)]
        heights = {f"{i} on {j}": barriers[f"{min(i, j)}-{max(i, j)}"] for i, j in PAIRS + CONTROL}
        for name, pairs in (("rank", PAIRS), ("rank with control", PAIRS + CONTROL)):
            keys = [f"{i} on {j}" for i, j in pairs]
            rho = rank([shares[key] for key in keys], [heights[key] for key in keys])
            results.add(name, seed, {"seeds": [rho]})
        curves = results.notes["curves"][str(seed)]
        fewer = [
            halvings(curves[tuned(j)], curves[moved(i, j)][1:], accuracy[base(j)], accuracy[tuned(j)], every)
            for i, j in ((3, 4), (4, 5))
        ]
        results.add("halvings of the steps", seed, {"seeds": [float(np.mean(fewer))]})
        results.add("none", seed, {"seeds": [0.0]})
        results.add("one halving", seed, {"seeds": [1.0]})
    results.note("recovered share R", ratios)
    results.note("note's rule", _rule(results, ratios))


def _arms(known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Means over pairs, with the same targets on both sides of every comparison."""
    late = [moved(i, j) for i, j in LATE]
    half = [0.5 * (known[base(j)] + known[tuned(j)]) for _, j in LATE]
    return {
        "late neighbours, moved": mean_of(known, late),
        "late neighbours, half the gain": np.mean(half, axis=0),
        "neighbours, where others are far": _by_target(known, {j: NEXT[j] for j in DISTANT}),
        "far, moved": _by_target(known, DISTANT),
        "neighbours, moved": _by_target(known, NEXT),
        "independent, moved": _by_target(known, {j: [ALONE] for j in RUN}),
        "bases": mean_of(known, [base(j) for j in RUN]),
    }


def _by_target(known: dict[str, np.ndarray], sources: dict[int, list[int]]) -> np.ndarray:
    return np.mean([mean_of(known, [moved(i, j) for i in chosen]) for j, chosen in sources.items()], axis=0)


def _rule(results: Results, ratios: dict[str, dict[str, float | None]]) -> dict[str, Any]:
    """The note's directions as plain means over seeds and pairs."""

    def mean(pairs: Iterable[tuple[int, int]]) -> float | None:
        known = [share for i, j in pairs for one in ratios.values() if (share := one[f"{i} on {j}"]) is not None]
        return float(np.mean(known)) if known else None

    by_distance = {str(d): mean((i, j) for i, j in PAIRS if abs(i - j) == d) for d in range(1, len(RUN))}
    curves = results.notes["curves"].values()
    gaps = [np.array(one[moved(i, j)][1:]) - np.array(one[tuned(j)]) for one in curves for i, j in ((3, 4), (4, 5))]
    return {
        "R of late neighbours (expected above 0.5)": mean(LATE),
        "R by distance in the run (expected to fall)": by_distance,
        "R of the independent run's delta (expected about 0)": mean((ALONE, j) for j in RUN),
        "R on the independent base (expected about 0)": mean((i, ALONE) for i in RUN),
        "recycled minus tuned at once (expected at least 0)": _gap(results, RECYCLED, DIRECT),
        "accuracy of the moved start minus that of the base, by steps": np.mean(gaps, axis=0).round(4).tolist(),
    }


def _gap(results: Results, arm: str, other: str) -> float:
    """Mean difference of two arms over seeds and rows."""
    return float((results.table(arm, (TEST,)) - results.table(other, (TEST,))).mean())
