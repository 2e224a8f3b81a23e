"""Which tensor of the result is made from what: decided from names and shapes alone, before a number is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pairtune import registry
from pairtune.errors import DeltaMismatch, InputError
from pairtune.merging import Merge
from pairtune.merging.inputs.sources import Source
from pairtune.pair.tensor_names import natural


class Rule(NamedTuple):
    """How one tensor is made: by which method, with which weight for each model."""

    method: Merge
    weights: tuple[float, ...]


class Place(NamedTuple):
    """A tensor of a source, by the name that it has there."""

    source: Source
    name: str


@dataclass(frozen=True)
class Step:
    """One tensor of the result.

    Attributes:
        name: in the result.
        dtype: in which it is stored.
        rule: how it is combined; None where it is copied from `copied` as it is stored.
        inputs: where the models' tensors are.
        base: where the base's tensor is; None where the merge has no base, or the base no such tensor.
        edges: where some models have more rows than others (added tokens), the numbers of rows at which models end. Up
            to the first, all models are combined; rows beyond are the weighted mean of the models that have them.
        stored_as: see `key`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    rule: Rule | None
    inputs: tuple[Place, ...]
    base: Place | None = None
    copied: Place | None = None
    edges: tuple[int, ...] = ()
    stored_as: str | None = None

    @property
    def key(self) -> str:
        """Its name in the written file: the result's, unless the file names tensors in its own way."""
        return self.stored_as or self.name

    @property
    def arithmetic(self) -> torch.dtype:
        """In which type it is computed: float64 where a tensor of it is stored in that, else float32."""
        places = [*self.inputs, *([self.base] if self.base else [])]
        found = {self.dtype, *(place.source.dtype(place.name) for place in places)}
        return torch.float64 if torch.float64 in found else torch.float32


def plan(
    models: Sequence[Source],
    base: Source | None,
    rule: Callable[[str], Rule],
    growth: frozenset[str] = frozenset(),
    dtype: torch.dtype | None = None,
) -> list[Step]:
    """The steps of a merge of models that have the same tensors, in natural order of the names.

    Args:
        rule: how to make a tensor, by its name.
        growth: names of matrices whose rows are tokens, and which may have more rows in some models.
        dtype: the type of the result's floating-point tensors; None keeps the stored type of the base, or without one
            of the first model.

    A tensor that no model changes is copied. So is a tensor of whole numbers, which must be the same in all models. A
    tensor that exists in the deltas alone (a new head) is copied where one model has it; of several it is the weighted
    mean. Raises `DeltaMismatch` naming the tensor that does not fit.
    """
    home = base or models[0]
    names = sorted(frozenset().union(*(model.names for model in models), home.names), key=natural)
    return [
        make_step(
            name,
            [Place(model, name) for model in models],
            None if base is None else Place(base, name),
            rule(name),
            name in growth,
            dtype,
        )
        for name in names
    ]


def make_step(
    name: str,
    places: Sequence[Place],
    base: Place | None,
    rule: Rule,
    may_grow: bool = False,
    dtype: torch.dtype | None = None,
) -> Step:
    """The step for one tensor; arguments and errors as in `plan`, the tensor's names in the sources may differ."""
    having = [place for place in places if place.name in place.source.names]
    origin = base if base is not None and base.name in base.source.names else None
    new = origin is None and all(place.source.is_new(place.name) for place in having)
    if new and len(having) < len(places):
        if len(having) > 1:
            raise DeltaMismatch(f"{name}: this tensor of the deltas alone is in {len(having)} of {len(places)} models")
        return _copy(name, having[0], dtype)
    if len(having) < len(places):
        lacking = next(place for place in places if place.name not in place.source.names)
        raise DeltaMismatch(f"{lacking.source.label}: has no tensor {lacking.name}")
    if origin is None and base is not None and not new:
        raise DeltaMismatch(f"{base.source.label}: has no tensor {base.name}")
    inputs = tuple(places)
    home = origin or inputs[0]
    stored = home.source.dtype(home.name)
    if not stored.is_floating_point:
        _check_equal(name, inputs, home)
        return _copy(name, home, None)
    if new and "samples" not in rule.method.needs:  # what looks at data knows a head as it knows all else
        rule = _mean(rule)
    elif origin is not None and rule.method.keeps(rule.weights) and all(_unchanged(place, origin) for place in inputs):
        return _copy(name, origin, dtype)
    alone = rule.method.alone(rule.weights)
    if alone is not None and inputs[alone].source.stored(inputs[alone].name) is not None:
        return _copy(name, inputs[alone], dtype or stored)
    shape, edges = _shape(name, [*inputs, home], may_grow)
    return Step(name, shape, dtype or stored, rule, inputs, origin, edges=edges)


def _shape(name: str, places: Sequence[Place], may_grow: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The result's shape, and the numbers of rows at which models end before it does."""
    home = places[-1]
    expected = home.source.shape(home.name)
    shapes = [place.source.shape(place.name) for place in places]
    for place, shape in zip(places, shapes, strict=True):
        if shape != expected and not (may_grow and len(shape) == 2 and shape[1:] == expected[1:]):
            raise DeltaMismatch(
                f"{place.source.label}: {name} has the shape {list(shape)}, {home.source.label} has {list(expected)}"
            )
    largest = max(shapes)
    return largest, tuple(sorted({shape[0] for shape in shapes if shape != largest}))


def _copy(name: str, place: Place, dtype: torch.dtype | None) -> Step:
    stored = place.source.dtype(place.name)
    wanted = dtype if dtype is not None and stored.is_floating_point else stored
    return Step(name, place.source.shape(place.name), wanted, None, (), copied=place)


def _unchanged(place: Place, base: Place) -> bool:
    """Whether it is the base's own tensor, by where it is stored."""
    return (
        place.source.tensors is base.source.tensors
        and place.name == base.name
        and place.source.part(place.name) is None
    )


def _check_equal(name: str, inputs: Sequence[Place], home: Place) -> None:
    expected = home.source.stored(home.name)
    for place in inputs:
        found = place.source.stored(place.name)
        if found is None or expected is None or not torch.equal(found, expected):
            raise DeltaMismatch(
                f"{place.source.label}: {name} holds whole numbers ({home.source.dtype(name)}) that differ from those "
                f"of {home.source.label}; quantised weights cannot be merged, unpack them first"
            )


def _mean(rule: Rule) -> Rule:
    """The weighted mean, for what has no base to add changes to; an unweighted method has the plain mean."""
    from pairtune.merging.linear import Linear

    return Rule(Linear(), rule.weights if rule.method.weighted and sum(rule.weights) else (1.0,) * len(rule.weights))


def check_method(
    method: Merge, name: str, models: int, base: Source | None, weights: Sequence[float] | None, tasks: int = 0
) -> None:
    """Refuse a method that cannot take these inputs, by name.

    Args:
        weights: those that the user gave; None where there were none.
        tasks: for how many models the user has named data.
    """
    fewest, most = method.models
    if not fewest <= models <= most:
        wanted = f"{fewest}" if fewest == most else f"{fewest} or more" if most > 99 else f"{fewest} to {most}"
        raise InputError(f"{name}: takes {wanted} models beside the base, found {models}")
    if "base" in method.needs and base is None:
        raise InputError(f"{name}: works on what the models add to their base; give it with --base")
    if weights and not method.weighted:
        raise InputError(f"{name}: does not use weights for the models; leave them out (PATH instead of PATH:WEIGHT)")
    if weights and not method.signed and (min(weights) < 0 or not any(weights)):
        raise InputError(f"{name}: weights are 0 or more, and not all 0; found {', '.join(f'{w:g}' for w in weights)}")
    if "samples" not in method.needs:
        if tasks:
            known = [
                one for one in registry.methods("merging") if "samples" in (registry.find("merging", one).needs or ())
            ]
            raise InputError(
                f"{name}: looks at no data; leave --data out, or take a method that does: {', '.join(known)}"
            )
    elif tasks != models:
        raise InputError(
            f"{name}: looks at rows of the task that each model was tuned on; give one --data for each of the "
            f"{models} models, in their order (found {tasks or 'none'})"
        )
