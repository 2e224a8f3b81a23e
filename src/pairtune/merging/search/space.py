"""What a search over merges may choose: for every group of layers a method and its coefficients.

Yang et al., "MedSAMix: A Training-Free Model Merging Approach for Medical Image Segmentation", arXiv 2508.11032. A
point of the space is a flat table of names and values, as optimisers like them; it stands for one `Choice` a group:

    linear            sum_i w_i W_i / sum_i w_i         w_i in [0, 1], one for each model of the pool
    slerp             the great circle from a to b      a, b of the pool; t in [0, 1]
    task-arithmetic   W0 + sum_i s_i (W_i - W0)         s_i in [0, 1], one for each model that is not the base
    ties              W0 + s TIES(W_i - W0; density)    density in (0, 1], s in [0, 2]
    keep              W_i as it is                      i of the pool

and the granularity, one number for the model: that many consecutive blocks share the choice of the first of them.
Not found in the paper, and so ours: the range of s of TIES, the pair of models that SLERP takes (one of all pairs), the
granularities (powers of two), and that tensors outside the blocks (embeddings, heads) are a group like the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pairtune.errors import InputError
from pairtune.merging.engine.by_layer import REST, Choice, Layer, layer_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Point = dict[str, Any]
OPERATORS = ("linear", "slerp", "task-arithmetic", "ties", "keep")
NEED_BASE = frozenset({"task-arithmetic", "ties"})
GRANULARITY = "granularity"
STEP = 0.01  # of every coefficient, so that a recipe is readable and equal merges are found again


class Span(NamedTuple):
    """A coefficient's range, in steps of `STEP`."""

    low: float
    high: float


class Values(NamedTuple):
    """What one of several things is chosen from."""

    options: tuple[int, ...]


def shares(choice: Choice, count: int) -> np.ndarray:
    """[count + 1]: by what each of the pool's differences from the base is nominally multiplied, and the density."""
    out = np.zeros(count + 1)
    weights, settings = np.array(choice.weights), dict(choice.settings)
    if choice.operator == "slerp":
        weights = np.array([1 - settings["t"], settings["t"]])
    elif choice.operator in ("linear", "keep"):
        weights = weights / weights.sum()
    elif choice.operator == "ties":
        weights = weights / len(weights)
    out[list(choice.models)] = weights * settings.get("scale", 1.0)
    out[-1] = settings.get("density", 1.0)
    return out


@dataclass(frozen=True)
class Space:
    """The space of merges of one pool.

    Args:
        pool: names of the models, at least two.
        base: which of `pool` is the common base; None where the base is not one of them.
        based: whether there is a base at all; without one, methods that need it are left out.
        groups: the groups of layers, in order.
        operators: the methods to choose from.
        granularities: numbers of consecutive blocks that share a choice.
    """

    pool: tuple[str, ...]
    base: int | None
    based: bool
    groups: tuple[Layer, ...]
    operators: tuple[str, ...] = OPERATORS
    granularities: tuple[int, ...] = (1,)

    @classmethod
    def of(
        cls,
        pool: Sequence[str],
        tensors: Iterable[str],
        base: int | None = None,
        based: bool = True,
        operators: Sequence[str] | None = None,
        one_group: bool = False,
    ) -> Space:
        """The space for a pool of models with these tensors. `one_group`: one choice for the whole model.

        Raises `InputError` for fewer than two models, and for methods that are unknown or that the pool cannot have.
        """
        if len(pool) < 2:
            raise InputError(f"a search over merges takes two models or more, found {len(pool)}")
        for one in operators or ():
            if one not in OPERATORS:
                raise InputError(f"there is no method {one!r} to search over (there are {', '.join(OPERATORS)})")
            if one in NEED_BASE and not based:
                raise InputError(f"{one}: works on what the models add to their base; give it with --base")
        chosen = tuple(operators or (one for one in OPERATORS if based or one not in NEED_BASE))
        found = list(dict.fromkeys(layer_of(name) for name in tensors))
        rows = list(dict.fromkeys(group.row for group in found))
        groups = sorted(found, key=lambda group: (group.row == REST, rows.index(group.row), group.index))
        longest = max(sum(group.row == row for group in groups) for row in rows)
        granularities = tuple(2**i for i in range(longest.bit_length()) if 2**i <= longest)
        if one_group:
            groups, granularities = [Layer(REST, 0)], (1,)
        return cls(tuple(pool), base, based, tuple(groups), chosen, granularities)

    @cached_property
    def variants(self) -> tuple[int, ...]:
        """Places in the pool of the models that are not the base."""
        return tuple(i for i in range(len(self.pool)) if i != self.base)

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs of models that SLERP may take."""
        return tuple(itertools.combinations(range(len(self.pool)), 2))

    def place(self, tensor: str) -> int:
        """The place in `groups` of a tensor's group."""
        return 0 if len(self.groups) == 1 else self._places[layer_of(tensor)]

    @cached_property
    def _places(self) -> dict[Layer, int]:
        return {group: i for i, group in enumerate(self.groups)}

    def leader(self, group: Layer, granularity: int) -> Layer:
        """The group whose choice this one takes."""
        return self._leaders[granularity][group]

    def leaders(self, granularity: int) -> list[Layer]:
        """The groups that have a choice of their own, in order."""
        return list(dict.fromkeys(self._leaders[granularity].values()))

    @cached_property
    def _leaders(self) -> dict[int, dict[Layer, Layer]]:
        out: dict[int, dict[Layer, Layer]] = {}
        for size in self.granularities:
            first: dict[tuple[str, int], Layer] = {}
            starts = {group.row: min(o.index for o in self.groups if o.row == group.row) for group in self.groups}
            out[size] = {
                group: first.setdefault((group.row, (group.index - starts[group.row]) // size), group)
                for group in self.groups
            }
        return out

    # -- between points and choices ------------------------------------------------------------------------------

    def variables(self, group: Layer, operator: str) -> dict[str, Span | Values]:
        """The variables that a group has with this method, by their names in a point."""
        out: dict[str, Span | Values] = {}
        if operator == "linear":
            out = {name: Span(0.0, 1.0) for name in self.pool}
        elif operator == "slerp":
            out = {"pair": Values(tuple(range(len(self.pairs)))), "t": Span(0.0, 1.0)}
        elif operator == "task-arithmetic":
            out = {self.pool[i]: Span(0.0, 1.0) for i in self.variants}
        elif operator == "ties":
            out = {"density": Span(STEP, 1.0), "scale": Span(0.0, 2.0)}
        elif operator == "keep":
            out = {"model": Values(tuple(range(len(self.pool))))}
        return {f"{group.name}/{operator}.{name}": values for name, values in out.items()}

    def suggest(self, trial: Trial) -> Point:
        """Ask for a point: the granularity, then of every leading group the method and the variables it has."""
        point: Point = {GRANULARITY: trial.suggest_categorical(GRANULARITY, self.granularities)}
        for group in self.leaders(point[GRANULARITY]):
            operator = f"{group.name}/operator"
            point[operator] = trial.suggest_categorical(operator, self.operators)
            for name, values in self.variables(group, point[operator]).items():
                if isinstance(values, Values):
                    point[name] = trial.suggest_categorical(name, values.options)
                else:
                    point[name] = trial.suggest_float(name, values.low, values.high, step=STEP)
        return point

    def distributions(self, point: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        """The variables that a point has, with their ranges as optuna writes them."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        out: dict[str, BaseDistribution] = {GRANULARITY: CategoricalDistribution(self.granularities)}
        for group in self.leaders(point[GRANULARITY]):
            operator = f"{group.name}/operator"
            out[operator] = CategoricalDistribution(self.operators)
            for name, values in self.variables(group, point[operator]).items():
                if isinstance(values, Values):
                    out[name] = CategoricalDistribution(values.options)
                else:
                    out[name] = FloatDistribution(values.low, values.high, step=STEP)
        return out

    def choices(self, point: Mapping[str, Any]) -> tuple[Choice, ...]:
        """One choice for each of `groups`."""
        made = {group: self.choice(group, point) for group in self.leaders(point[GRANULARITY])}
        return tuple(made[self.leader(group, point[GRANULARITY])] for group in self.groups)

    def choice(self, group: Layer, point: Mapping[str, Any]) -> Choice:
        """What a leading group is made of."""
        lead = f"{group.name}/"
        operator = point[lead + "operator"]
        lead += f"{operator}."
        if operator == "linear":
            weights = [float(point[lead + name]) for name in self.pool]
            used = [i for i, weight in enumerate(weights) if weight > 0] or list(range(len(weights)))
            return Choice(operator, tuple(used), tuple(weights[i] or 1.0 for i in used))
        if operator == "slerp":
            t = float(point[lead + "t"])
            return Choice(operator, self.pairs[point[lead + "pair"]], (1.0, 1.0), (("t", t),))
        if operator == "task-arithmetic":
            return Choice(operator, self.variants, tuple(float(point[lead + self.pool[i]]) for i in self.variants))
        if operator == "ties":
            settings = tuple((name, float(point[lead + name])) for name in ("density", "scale"))
            return Choice(operator, self.variants, (1.0,) * len(self.variants), settings)
        return Choice(operator, (int(point[lead + "model"]),), (1.0,))

    # -- what stands beside every search -------------------------------------------------------------------------

    def uniform(self, operator: str, values: Mapping[str, Any]) -> Point:
        """The point at which every group has the same method and coefficients."""
        coarse = max(self.granularities)
        return {GRANULARITY: coarse} | {
            f"{group.name}/{name}": value
            for group in self.leaders(coarse)
            for name, value in {"operator": operator, **{f"{operator}.{k}": v for k, v in values.items()}}.items()
        }

    def initial(self) -> dict[str, Point]:
        """The points that every search begins with, by name: each model of the pool, then the usual fixed merges."""
        found: dict[str, Point] = {}
        if "keep" in self.operators:
            found |= {f"only {name}": self.uniform("keep", {"model": i}) for i, name in enumerate(self.pool)}
        elif "linear" in self.operators:
            for name in self.pool:
                found[f"only {name}"] = self.uniform("linear", {other: float(other == name) for other in self.pool})
        if "linear" in self.operators:
            found["uniform soup"] = self.uniform("linear", dict.fromkeys(self.pool, 1.0))
        if "slerp" in self.operators and len(self.variants) > 1:
            halves = {"pair": self.pairs.index(self.variants[:2]), "t": 0.5}
            found["slerp, halves"] = self.uniform("slerp", halves)
        if "task-arithmetic" in self.operators:
            scale = 0.4 if len(self.variants) > 1 else 1.0
            names = [self.pool[i] for i in self.variants]
            found["task arithmetic"] = self.uniform("task-arithmetic", dict.fromkeys(names, scale))
        if "ties" in self.operators:
            found["ties"] = self.uniform("ties", {"density": 0.2, "scale": 1.0})
        return found
