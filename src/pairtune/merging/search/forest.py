"""The next point to try: a random forest of what was measured, and the point from which it expects the most.

Hutter, Hoos and Leyton-Brown, "Sequential Model-Based Optimization for General Algorithm Configuration" (LION 2011),
the optimiser (SMAC) that MedSAMix (arXiv 2508.11032) searches with: a forest takes conditional and categorical
variables as they are, where a Gaussian process does not.

    EI(x) = (f* - m(x)) Phi(z) + s(x) phi(z)      z = (f* - m(x)) / s(x), f*: the lowest cost so far
    m, s: mean and standard deviation over the trees

Candidates are random points and a local search from the best measured ones, one variable (or one group's method)
changed at a time. Departure: the forest does not see a point's variables but what they do. Every group of layers has
the chosen method, the nominal multiple of each model's difference from the base, and the density of TIES; a point with
coarse granularity looks like the fine one that makes the same model, and the model's mean over the groups is seen too.
A third of the features at a split is Breiman's rule for regression, where SMAC3 takes most of them (from memory).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pairtune.merging.engine.by_layer import Layer
from pairtune.merging.search.space import GRANULARITY, STEP, Point, Space, Values, shares

TREES, FEATURES = 10, 1 / 3
RANDOM = 0.08  # of the points are random ones, whatever the forest says
STARTS, NEIGHBOURS, WALKS, STRANGERS = 5, 30, 3, 30
SPREAD = 0.2  # standard deviation of a coefficient's change, as a share of its range


def propose(space: Space, points: Sequence[Point], costs: Sequence[float], generator: np.random.Generator) -> Point:
    """The next point, given the measured ones and their costs (lower is better); one that was not measured yet."""
    known = {space.choices(point) for point in points}
    if len(points) < 2 or generator.random() < RANDOM:
        return _unknown(space, generator, known)
    forest = _fit(_seen([features(space, point) for point in points]), np.asarray(costs), generator)
    lowest = float(np.min(costs))

    def promise(found: Sequence[np.ndarray]) -> np.ndarray:
        return expected_improvement(*_predict(forest, _seen(found)), lowest)

    found: list[tuple[float, Point]] = []
    strangers = [draw(space, generator) for _ in range(STRANGERS)]
    strangers += [_same_everywhere(space, generator) for _ in range(STRANGERS)]
    worth = promise([features(space, point) for point in strangers])
    found += zip(worth.tolist(), strangers, strict=True)
    for start in np.argsort(costs, kind="stable")[:STARTS]:
        here, seen = points[start], features(space, points[start])
        best = -np.inf
        for _ in range(WALKS):
            near = [_neighbour(space, here, seen, generator) for _ in range(NEIGHBOURS)]
            worth = promise([one for _, one in near])
            top = int(np.argmax(worth))
            if worth[top] <= best:
                break
            best = float(worth[top])
            here, seen = near[top]
            found += zip(worth.tolist(), (point for point, _ in near), strict=True)
    for _, point in sorted(found, key=lambda one: -one[0]):
        if space.choices(point) not in known:
            return point
    return _unknown(space, generator, known)


def features(space: Space, point: Point) -> np.ndarray:
    """[groups, methods + models + 1]: what a point makes of every group, as the forest sees it."""
    made: dict[Layer, np.ndarray] = {}
    rows = []
    for group, choice in zip(space.groups, space.choices(point), strict=True):
        leader = space.leader(group, point[GRANULARITY])
        if leader not in made:
            method = np.array([float(choice.operator == one) for one in space.operators])
            made[leader] = np.concatenate([method, shares(choice, len(space.pool))])
        rows.append(made[leader])
    return np.stack(rows)


def _seen(found: Sequence[np.ndarray]) -> np.ndarray:
    """[N, features]: those of all groups and their mean, which says what is done to the model as a whole."""
    stacked = np.stack(found)
    return np.concatenate([stacked.reshape(len(found), -1), stacked.mean(1)], axis=1)


def draw(space: Space, generator: np.random.Generator, granularity: int | None = None) -> Point:
    """A random point: every choice and every coefficient uniform in its range."""
    coarse = granularity or int(generator.choice(space.granularities))
    point: Point = {GRANULARITY: coarse}
    for group in space.leaders(coarse):
        point |= _drawn_group(space, group, str(generator.choice(space.operators)), generator)
    return point


def _same_everywhere(space: Space, generator: np.random.Generator) -> Point:
    """A random point with one choice for the whole model."""
    coarse = max(space.granularities)
    first, *others = space.leaders(coarse)
    drawn = _drawn_group(space, first, str(generator.choice(space.operators)), generator)
    point: Point = {GRANULARITY: coarse} | drawn
    for group in others:
        point |= {f"{group.name}/{name.removeprefix(first.name + '/')}": value for name, value in drawn.items()}
    return point


def expected_improvement(mean: np.ndarray, deviation: np.ndarray, lowest: float) -> np.ndarray:
    """By how much a cost lies below `lowest` on average, if it is normal with these moments ([N] each)."""
    from scipy.stats import norm

    z = (lowest - mean) / deviation
    return (lowest - mean) * norm.cdf(z) + deviation * norm.pdf(z)


def _drawn_group(space: Space, group: Layer, operator: str, generator: np.random.Generator) -> Point:
    point: Point = {f"{group.name}/operator": operator}
    for name, values in space.variables(group, operator).items():
        if isinstance(values, Values):
            point[name] = int(generator.choice(values.options))
        else:
            point[name] = _rounded(generator.uniform(values.low, values.high), values.low, values.high)
    return point


def _neighbour(
    space: Space, point: Point, seen: np.ndarray, generator: np.random.Generator
) -> tuple[Point, np.ndarray]:
    """A point with one thing changed, and what the forest sees of it, given what it sees of the old one."""
    leaders = space.leaders(point[GRANULARITY])
    at = int(generator.integers(len(leaders) + (len(space.granularities) > 1)))
    if at == len(leaders):
        new = _regrouped(space, point, int(generator.choice(space.granularities)))
        return new, features(space, new)
    group = leaders[at]
    new = dict(point)
    operator = new[f"{group.name}/operator"]
    variables = space.variables(group, operator)
    what = int(generator.integers(len(variables) + (len(space.operators) > 1)))
    if what == len(variables):
        for name in variables:
            del new[name]
        others = [one for one in space.operators if one != operator]
        new |= _drawn_group(space, group, str(generator.choice(others)), generator)
    else:
        name, values = list(variables.items())[what]
        if isinstance(values, Values):
            new[name] = int(generator.choice([one for one in values.options if one != new[name]] or values.options))
        else:
            moved = generator.normal(new[name], SPREAD * (values.high - values.low))
            new[name] = _rounded(float(np.clip(moved, values.low, values.high)), values.low, values.high)
    out = seen.copy()
    choice = space.choice(group, new)
    method = np.array([float(choice.operator == one) for one in space.operators])
    rows = [i for i, one in enumerate(space.groups) if space.leader(one, point[GRANULARITY]) == group]
    out[rows] = np.concatenate([method, shares(choice, len(space.pool))])
    return new, out


def _regrouped(space: Space, point: Point, granularity: int) -> Point:
    """The same model, as far as it can be said with another granularity: leaders keep the choices they had."""
    new: Point = {GRANULARITY: granularity}
    for group in space.leaders(granularity):
        old = space.leader(group, point[GRANULARITY]).name + "/"
        new |= {f"{group.name}/{n.removeprefix(old)}": value for n, value in point.items() if n.startswith(old)}
    return new


def _unknown(space: Space, generator: np.random.Generator, known: set[Any]) -> Point:
    """A random point that was not measured yet; any, where the space has hardly another."""
    for _ in range(100):
        point = draw(space, generator)
        if space.choices(point) not in known:
            break
    return point


def _fit(seen: np.ndarray, costs: np.ndarray, generator: np.random.Generator) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(TREES, max_features=FEATURES, random_state=int(generator.integers(2**31)))
    return forest.fit(seen.astype(np.float32), costs)


def _predict(forest: Any, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N] means and standard deviations over the trees. Leaves hold one point: a merge's score has no noise."""
    rows = np.ascontiguousarray(seen, dtype=np.float32)
    means = np.stack([tree.tree_.value[tree.tree_.apply(rows), 0, 0] for tree in forest.estimators_])
    return means.mean(0), means.std(0) + 1e-9


def _rounded(value: float, low: float, high: float) -> float:
    return float(min(max(round(round(value / STEP) * STEP, 10), low), high))
