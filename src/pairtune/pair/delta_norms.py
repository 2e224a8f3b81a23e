"""How far a delta moves each tensor and each layer: Frobenius norms, absolute and relative to the base."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pairtune.pair.delta import Delta
from pairtune.pair.part import frobenius
from pairtune.pair.tensor_names import LAYER, layer_of, naming


@dataclass(frozen=True)
class Norm:
    """Frobenius norm of a change, and that of the base's tensors that it changes (None where no base is known)."""

    absolute: float
    base: float | None

    @property
    def relative(self) -> float | None:
        """absolute / base; None without a base or where it is zero."""
        return self.absolute / self.base if self.base else None


@dataclass(frozen=True)
class Norms:
    """Norms of a delta. A layer's norm is that of all its named tensors together; modules have no part in it."""

    tensors: dict[str, Norm]
    layers: dict[str, Norm]
    total: Norm


def norms_of(delta: Delta, by: str | re.Pattern[str] = LAYER) -> Norms:
    """Norms of a delta by tensor and by layer, in the delta's order, summed in float64.

    Args:
        by: a regular expression; what it finds in a name (its first group, if it has one) is the tensor's layer. The
            default takes the name up to its first number. A name without a match counts as its own module.

    Raises `MissingView` for a stored value where the delta knows no base.
    """
    tensors: dict[str, Norm] = {}
    layers: dict[str, list[Norm]] = {}
    for name, part in delta.items():
        if part.kind == "module":
            continue
        with naming(name):
            base = None if delta.base is None else delta.base(name)
            part.check_base(base)
            tensors[name] = Norm(part.norm(base), None if base is None else frobenius(base))
        layers.setdefault(layer_of(name, by), []).append(tensors[name])
    return Norms(tensors, {name: _together(parts) for name, parts in layers.items()}, _together(tensors.values()))


def _together(norms: Iterable[Norm]) -> Norm:
    norms = list(norms)
    bases = [norm.base for norm in norms if norm.base is not None]
    complete = len(bases) == len(norms) and norms
    return Norm(math.hypot(*(norm.absolute for norm in norms)), math.hypot(*bases) if complete else None)
