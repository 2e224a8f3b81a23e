"""A merge that does another thing in every layer: which method, of which models, with which weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from pairtune import registry
from pairtune.merging.engine.plan import Place, Rule, Step, make_step
from pairtune.merging.inputs.sources import Source
from pairtune.pair.tensor_names import natural

METHODS = {"keep": "passthrough"}
REST = "rest"
_BLOCK = re.compile(r"(?:^|\.)(\d+)(?=\.)")


@dataclass(frozen=True)
class Choice:
    """How the tensors of a layer are made.

    Attributes:
        operator: a method's name, or "keep" for one model as it is.
        models: places of the models that are combined, in order.
        weights: one for each of them; 1 where the method has none.
        settings: of the method.
    """

    operator: str
    models: tuple[int, ...]
    weights: tuple[float, ...]
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def rule(self) -> Rule:
        """As the engine takes it. Raises `InputError` for an unknown method, `ConfigError` for its settings."""
        return _rule(self)


@lru_cache(4096)
def _rule(choice: Choice) -> Rule:
    """A method is found by reading files, which takes longer than merging a small tensor with it."""
    method = registry.build("merging", METHODS.get(choice.operator, choice.operator), dict(choice.settings))
    return Rule(method, choice.weights)


@dataclass(frozen=True)
class Layer:
    """Tensors with a name of their own: the block `index` of the row of blocks `row`, or all that is in no block."""

    row: str
    index: int

    @property
    def name(self) -> str:
        """`model.layers.3`, or `rest`."""
        return self.row if self.row == REST else f"{self.row}.{self.index}" if self.row else str(self.index)


def layer_of(tensor: str) -> Layer:
    """The layer of a tensor by its name: its first number is the block's (`model.layers.3.mlp.weight`)."""
    found = _BLOCK.search(tensor)
    return Layer(tensor[: max(found.start(1) - 1, 0)], int(found[1])) if found else Layer(REST, 0)


def steps(
    models: Sequence[Source],
    base: Source | None,
    choice: Callable[[str], Choice | None],
    dtype: torch.dtype | None = None,
) -> list[Step]:
    """The steps of a merge by layers: `choice` is asked for every tensor by its name; None leaves it out.

    Args:
        dtype: the stored type of floating-point tensors; None: that of the base, or without one of the first model.

    Raises as `plan.plan`.
    """
    home = base or models[0]
    names = sorted(frozenset().union(*(model.names for model in models), home.names), key=natural)
    origin = {name: Place(base, name) for name in names} if base is not None else {}
    found = []
    for name in names:
        made = choice(name)
        if made is None:
            continue
        places = [Place(models[i], name) for i in made.models]
        stored = home.dtype(name) if name in home.names else None
        own = stored if stored is not None and stored.is_floating_point else None
        found.append(make_step(name, places, origin.get(name), made.rule, dtype=dtype or own))
    return found
