"""The straight line between two states of a model's weights, each tensor of it at a place of its own if asked.

    theta(alpha) = (1 - alpha) theta_0 + alpha theta_1

computed in float32 and rounded once; alpha 0 and 1 give the ends themselves, bit for bit. Parameter objects are
exchanged and put back, so that leaving a point restores the model exactly, whatever was done to the point's tensors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pairtune.errors import BaseMismatch, DeltaMismatch, MissingView
from pairtune.pair.apply import stacked
from pairtune.pair.checkpoint import tokenizer_digest
from pairtune.pair.installed import SwappedParameters

if TYPE_CHECKING:
    from pairtune.pair.delta import Delta
    from pairtune.pair.pair import Pair
    from pairtune.pair.part import Part

COMPACT = ("low-rank", "sparse")  # kinds of change whose fractions take no more room than they do


@dataclass(frozen=True)
class Line:
    """A line for one model. `start` and `end` hold the same names in memory, in the model's own types and shapes.

    `change` is the delta from start to end where it is one of low rank or of few entries.
    """

    model: nn.Module
    start: dict[str, Tensor]
    end: dict[str, Tensor]
    change: Delta | None = None

    def values(self, alpha: float, group: Collection[str] = (), group_alpha: float = 0.0) -> dict[str, Tensor]:
        """The tensors of the point at alpha; those of `group` are taken at `group_alpha` instead."""
        return {
            name: _between(self.start[name], self.end[name], group_alpha if name in group else alpha)
            for name in self.start
        }

    @contextlib.contextmanager
    def at(self, alpha: float, group: Collection[str] = (), group_alpha: float = 0.0) -> Iterator[None]:
        """The model at this point while inside; arguments as in `values`."""
        with exchanged(self.model, self.values(alpha, group, group_alpha)):
            yield


@contextlib.contextmanager
def exchanged(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[dict[str, nn.Parameter]]:
    """Parameters of these values in the places of the model's own while inside; the old objects come back after.

    Yields the Parameters, by the names that the model's had. Raises `DeltaMismatch` for a name that it does not have.
    """
    swapped = SwappedParameters(model, {name: nn.Parameter(value, False) for name, value in tensors.items()})
    try:
        yield swapped.variants
    finally:
        swapped.off()


def line_of(pair: Pair) -> Line:
    """From the base to the variant; where the head is new, from the stack below the top delta, if that has the head.

    The line's points are for the pair's base alone: enter them inside `pair.off()`.

    Raises `MissingView` where a delta is no change of weights, or the line would begin at a random head.
    """
    end = weights_of(pair)
    below = weights_of(pair, len(pair.layers) - 1) if pair.base.new_names else {}
    lacking = sorted(name for name in pair.base.new_names if name not in below)
    if lacking:
        raise MissingView(
            f"the head is new ({lacking[0]}), so that the path would begin at a base with a random head; go from a "
            "probe to it (a pair tuned with --tuner head first: PROBE PAIR), or tune with the recipe lp-ft"
        )
    own = pair.base.parameters
    change = pair.delta if len(pair.layers) == 1 and not below else None
    if change is not None and any(part.kind not in COMPACT for part in change.values()):
        change = None
    return Line(pair.base.model, {name: below.get(name, own[name].detach()) for name in end}, end, change)


def line_between(first: Pair, second: Pair) -> Line:
    """From one variant to another of the same base, on the first one's model; as `line_of`, inside `first.off()`.

    Raises `BaseMismatch` for pairs of different bases or vocabularies, `DeltaMismatch` where a tensor has two shapes,
    `MissingView` where a delta is no change of weights or only one of them has a trained head.
    """
    difference = first.base.fingerprint.first_difference(second.base.fingerprint)
    if difference is not None:
        raise BaseMismatch(f"the two variants stand on different bases: {difference}")
    if tokenizer_digest(first.tokenizer) != tokenizer_digest(second.tokenizer):
        raise BaseMismatch("the two variants have different tokenizers; there is no line between their vocabularies")
    one, other = weights_of(first), weights_of(second)
    heads = first.base.new_names | second.base.new_names
    lone = sorted(name for name in heads if (name in one) != (name in other))
    if lone:
        raise MissingView(f"only one of the two variants has the head {lone[0]}; tune both on the same task")
    if heads and first.base.labels != second.base.labels:
        said = [", ".join((pair.base.labels or ["none"])[:3]) for pair in (first, second)]
        raise BaseMismatch(f"the two variants' heads are for different labels ({said[0]}, ... and {said[1]}, ...)")
    names = [*one, *(name for name in other if name not in one)]
    own, own_other = first.base.parameters, second.base.parameters
    start = {name: one.get(name, own[name].detach()) for name in names}
    end = {name: other.get(name, own_other[name].detach()) for name in names}
    for name in names:
        if start[name].shape != end[name].shape:
            raise DeltaMismatch(
                f"{name} has the shape {list(start[name].shape)} in one variant and {list(end[name].shape)} in the "
                "other; there is no line between them"
            )
    return Line(first.base.model, start, {name: tensor.to(start[name]) for name, tensor in end.items()})


def weights_of(pair: Pair, depth: int | None = None) -> dict[str, Tensor]:
    """The Parameters that the lowest `depth` deltas (None: all) change, as they make them, by name in memory.

    Raises `MissingView` for a delta that is no change of the base's weights.
    """
    layers = pair.layers[:depth]
    for layer in layers:
        if "merge" not in layer.installed.provides:
            name = (layer.record.get("tuner") or {}).get("name", "module")
            raise MissingView(f"a {name} delta is no change of the base's weights, so that no line leads to it")
    if pair.base.quantize:
        raise MissingView(
            "the base is loaded in 4 bits, in which there is no line between weights; load it unquantised"
        )
    values = stacked(pair.base, [layer.delta() for layer in layers])
    rows = pair.base.parameters
    grown = next((name for name, value in values.items() if value.shape != rows[name].shape), None)
    if grown is not None:
        raise MissingView(f"{grown} has rows that tuning added, so that there is no line from the base to it")
    return {name: value.to(rows[name]).contiguous() for name, value in values.items()}


def delta_of(pair: Pair, line: Line, alpha: float) -> Delta:
    """The delta from a pair's base to a point of a line on it: a fraction of the line's own change where it has one,
    else values where they differ from the base's, and a new head as it is."""
    from pairtune.pair.delta import Delta
    from pairtune.pair.parts import Module, Value

    if line.change is not None:
        return line.change * alpha
    base, parts = pair.base, dict[str, "Part"]()
    for name, value in line.values(alpha).items():
        if name in base.new_names or not torch.equal(value, base.parameters[name]):
            kind = Module if name in base.new_names else Value
            parts |= {disk: kind(tensor) for disk, tensor in base.names.to_disk({name: value}).items()}
    return Delta(parts, base=base.stored)


def _between(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    if alpha in (0.0, 1.0):
        return end if alpha else start
    with torch.no_grad():
        wide = torch.promote_types(start.dtype, torch.float32)
        return (start.to(wide) + alpha * (end.to(wide) - start.to(wide))).to(start.dtype)
