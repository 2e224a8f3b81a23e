"""Search for the best merge of a pool of models, layer group by layer group, by scoring merges on a few examples.

Yang et al., "MedSAMix: A Training-Free Model Merging Approach for Medical Image Segmentation", arXiv 2508.11032: an
optimiser without gradients chooses for every group of layers a merge method and its coefficients. Nothing is trained;
what is kept is a recipe, which the merging engine runs.

Every search first scores each model of the pool, their uniform soup, and task arithmetic, TIES and SLERP with their
usual settings; so its best is never worse on the calibration data than the best of those, which are reported beside it.
Many free coefficients fit few examples well: only other examples say what the best is worth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from pairtune.errors import InputError, PairtuneError
from pairtune.merging.engine.by_layer import Choice
from pairtune.merging.inputs.sources import Source
from pairtune.merging.search import forest
from pairtune.merging.search.journal import Journal, Trial
from pairtune.merging.search.models import Merger
from pairtune.merging.search.pareto import front, scalarised
from pairtune.merging.search.space import Point, Space
from pairtune.pair.tensor_names import natural
from pairtune.registry import suggest

Sampler = Literal["forest", "tpe", "random"]
Select = Literal["mean", "worst"]
Score = Callable[[tuple[Choice, ...]], float | Mapping[str, float]]
SCORE = "score"


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        trials: everything that was tried, in order; scores are on the calibration data, higher is better.
        best: the place in `trials` of the one to take.
        front: the places of those that no other beats in all objectives (with one objective, of the best ones).
    """

    space: Space
    trials: list[Trial]
    best: int
    front: list[int]
    select: Select = "mean"
    seconds: float = field(default=0.0, compare=False)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The best trial's choice for each group."""
        return self.space.choices(self.trials[self.best].point)

    @property
    def objectives(self) -> list[str]:
        """Names of the objectives."""
        return list(self.trials[0].scores)

    def best_so_far(self) -> np.ndarray:
        """[trials] the best value of the rule of selection up to each trial."""
        return np.maximum.accumulate(_values(self.trials, self.select))


def search_merge(
    pool: Mapping[str, Mapping[str, Tensor]],
    evaluate: Callable[[dict[str, Tensor]], float | Mapping[str, float]],
    base: str | None = None,
    operators: Sequence[str] | None = None,
    **options: Any,
) -> tuple[Found, dict[str, Tensor]]:
    """Search over the merges of models in memory, of any architecture: what was found, and the best merged tensors.

    Args:
        pool: state dicts by name, all with the same tensors; two or more.
        evaluate: see `search`.
        base: which of the pool the others were tuned from; without one, methods on their changes are left out.
        operators: the methods to choose from; all by default (see `space.py`).
        options: see `explore`.

    Raises `InputError` for a pool or options that cannot be, `DeltaMismatch` for tensors that do not fit together.
    """
    if base is not None and base not in pool:
        raise InputError(f"base: {base!r} is not in the pool{suggest(base, pool)}")
    sources = {name: Source(name, None, tensors) for name, tensors in pool.items()}
    names = frozenset().union(*pool.values())
    place = None if base is None else list(pool).index(base)
    space = Space.of(list(pool), sorted(names, key=natural), place, base is not None, operators)
    merger = Merger(list(sources.values()), None if base is None else sources[base], space)
    found = search(merger, evaluate, **options)
    return found, merger.tensors(found.choices)


def search(
    merger: Merger,
    evaluate: Callable[[dict[str, Tensor]], float | Mapping[str, float]],
    **options: Any,
) -> Found:
    """Search over the merges of a pool.

    Args:
        evaluate: from the merged tensors by name to a score, or to several by name; higher is better. With `jobs` it is
            called from as many threads at once.
        options: see `explore`.
    """
    return explore(merger.space, lambda choices: evaluate(merger.tensors(choices)), **options)


def explore(
    space: Space,
    score: Score,
    *,
    trials: int | None = 60,
    minutes: float | None = None,
    sampler: Sampler = "forest",
    select: Select = "mean",
    seed: int = 0,
    jobs: int = 1,
    folder: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Callable[[Trial, int], None] = lambda trial, total: None,
) -> Found:
    """Try points of a space, the initial design first, then those that the sampler proposes.

    Args:
        score: from the choice of each group to the score, or to one for each of several objectives; higher is better.
        trials: how many in all, the initial design included. minutes: no trial begins later than that after the call.
        sampler: "forest" (the paper's kind), "tpe" (optuna's, multivariate), or "random".
        select: of several objectives, take the point with the best "mean", or that with the best "worst" one.
        jobs: trials at the same time. With one, the search is a function of seed and scores, also across interruptions.
        folder: keep every trial there (`search.jsonl`); the same call goes on where it was.
        identity: what else makes this search another one (models, data), for the journal.

    Raises `InputError` for options that cannot be, `PairtuneError` where no trial has finite scores.
    """
    if sampler not in get_args(Sampler) or select not in get_args(Select):
        known = [", ".join(get_args(one)) for one in (Sampler, Select)]
        raise InputError(f"the sampler is one of {known[0]}, and what is selected by one of {known[1]}")
    start = space.initial()
    if trials is None and minutes is None:
        raise InputError("a search needs an end: a number of trials, or of minutes")
    if trials is not None and trials < len(start):
        raise InputError(f"{trials} trials are not enough: the first {len(start)} are the pool and the usual merges")
    about = {
        "pool": space.pool, "base": space.base, "groups": [group.name for group in space.groups],
        "operators": space.operators, "sampler": sampler, "seed": seed, **(identity or {}),
    }  # fmt: skip
    journal = Journal(folder, about)
    began = time.monotonic()
    run = _Run(space, score, list(start.items()), sampler, seed, journal, math.inf if trials is None else trials)
    run.end = math.inf if minutes is None else began + 60 * minutes
    run.go(jobs, progress)
    done = journal.trials
    values = _values(done, select)
    if not done or not np.isfinite(values).any():
        raise PairtuneError("none of the merges that were tried has a finite score; look at the pool's models alone")
    return Found(space, done, int(np.argmax(values)), front(-_table(done)), select, time.monotonic() - began)


@dataclass
class _Run:
    space: Space
    score: Score
    start: list[tuple[str, Point]]
    sampler: Sampler
    seed: int
    journal: Journal
    most: float
    end: float = math.inf

    def go(self, jobs: int, progress: Callable[[Trial, int], None]) -> None:
        running: dict[Future[Trial], tuple[int, Point]] = {}
        total = len(self.start) if math.isinf(self.most) else int(self.most)
        with ThreadPoolExecutor(max(jobs, 1)) as workers:
            try:
                while True:
                    while len(running) < jobs and (number := self._next(running)) is not None:
                        name, point, initial = self._propose(number, [point for _, point in running.values()])
                        running[workers.submit(self._try, number, name, initial, point)] = (number, point)
                    if not running:
                        return
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for one in finished:
                        del running[one]
                        self.journal.add(one.result())
                        progress(one.result(), total)
            except KeyboardInterrupt:
                kept = f"{len(self.journal.trials)} trials are kept, and the same command goes on from there"
                raise KeyboardInterrupt(kept if self.journal.path else "") from None

    def _next(self, running: Mapping[Any, tuple[int, Point]]) -> int | None:
        """The first number that is neither done nor running; None where the budget is used up."""
        taken = {trial.number for trial in self.journal.trials} | {number for number, _ in running.values()}
        number = next(i for i in range(len(taken) + 1) if i not in taken)
        over = time.monotonic() > self.end and number >= len(self.start)
        return None if number >= self.most or over else number

    def _propose(self, number: int, running: list[Point]) -> tuple[str, Point, bool]:
        if number < len(self.start):
            return *self.start[number], True
        generator = np.random.default_rng([self.seed, number])
        if self.sampler == "random":
            return self.sampler, forest.draw(self.space, generator), False
        done = self.journal.trials
        costs = scalarised(_costs(done), generator)
        points = [trial.point for trial in done]
        # Merges that are still being scored count as mediocre ones, so that their neighbourhood is not asked again.
        points, costs = [*points, *running], np.concatenate([costs, np.full(len(running), costs.mean())])
        if self.sampler == "tpe":
            return self.sampler, _tpe(self.space, points, costs, int(generator.integers(2**31))), False
        return self.sampler, forest.propose(self.space, points, costs.tolist(), generator), False

    def _try(self, number: int, name: str, initial: bool, point: Point) -> Trial:
        began = time.monotonic()
        scores = self.score(self.space.choices(point))
        named = dict(scores) if isinstance(scores, Mapping) else {SCORE: scores}
        clean = {str(key): float(value) for key, value in named.items()}
        return Trial(number, name, initial, point, clean, round(time.monotonic() - began, 4))


def _table(trials: Sequence[Trial]) -> np.ndarray:
    """[trials, objectives] scores, NaN where there is none."""
    return np.array([list(trial.scores.values()) for trial in trials], dtype=float)


def _values(trials: Sequence[Trial], select: Select) -> np.ndarray:
    """[trials] by which the best is chosen; −∞ where a score is not finite."""
    table = _table(trials)
    found = table.mean(1) if select == "mean" else table.min(1)
    return np.where(np.isfinite(found), found, -np.inf)


def _costs(trials: Sequence[Trial]) -> np.ndarray:
    """[trials, objectives] costs; a merge without a finite score is as bad as the worst that has one."""
    costs = -_table(trials)
    costs[~np.isfinite(costs)] = np.nan
    worst = np.where(np.isnan(costs).all(0), 0.0, np.nanmax(np.where(np.isnan(costs), -np.inf, costs), axis=0))
    return np.where(np.isnan(costs), worst, costs)


def _tpe(space: Space, points: Sequence[Point], costs: np.ndarray, seed: int) -> Point:
    """A proposal of optuna's tree-structured Parzen estimator, for groups of variables that depend on choices."""
    import warnings

    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(multivariate=True, group=True, seed=seed, n_startup_trials=0)
    study = optuna.create_study(sampler=sampler)
    for point, cost in zip(points, costs, strict=True):
        known = space.distributions(point)
        study.add_trial(optuna.trial.create_trial(params=dict(point), distributions=known, value=float(cost)))
    return space.suggest(study.ask())
