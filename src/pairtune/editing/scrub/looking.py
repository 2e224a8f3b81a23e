"""The first delta looked at: its directions with their signs, what they do, and whether they are found again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pairtune.constraints.directions import Directions, Layers
from pairtune.editing.scrub.identify import Count, Side, alike, chance, identify
from pairtune.editing.scrub.offtopic import Causal, Drift, OffTopic, Overlap
from pairtune.editing.scrub.report import SideReport
from pairtune.errors import InputError
from pairtune.pair.residual import stream_of

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

SIMPLE = 0.9  # share of the energy above which one direction is the task itself


@dataclass(frozen=True)
class Looked:
    """What the first delta and ordinary texts showed, by side. drift: of the first delta."""

    sides: dict[str, Side]
    causal: dict[str, Causal]
    overlap: dict[str, Overlap]
    drift: Drift

    @property
    def directions(self) -> Directions:
        """As the constraints read them; a side that the delta does not have takes the other's."""
        write, read = (self.sides.get(name, next(iter(self.sides.values()))) for name in ("write", "read"))
        return Directions(write.directions, read.directions)

    def reports(self, halves: Sequence[Mapping[str, Side]]) -> dict[str, SideReport]:
        """The report on each side; halves: what was found in the deltas of either half of the rows."""
        found = {}
        for name, side in self.sides.items():
            one, other = (half[name].directions for half in halves)
            gap = side.gap if side.gap != float("inf") else None
            found[name] = SideReport(
                k=side.k, values=side.values, energy=side.energy, gap=gap, agreement=side.agreement,
                halves=alike(one, other), chance=chance(len(one), one.shape[1], other.shape[1]),
                causal=self.causal[name], overlap=self.overlap[name], layers=side.layers, kinds=side.kinds,
            )  # fmt: skip
        return found


def directions_of(pair: Pair, k: Count, layers: Layers) -> dict[str, Side]:
    """The sides of a pair's top delta; see `identify`."""
    return identify(pair.delta, stream_of(pair.base), pair.base, k=k, layers=layers)


def look(pair: Pair, texts: Sequence[str], k: Count, layers: Layers, needed: Sequence[str]) -> Looked:
    """Look at a first delta.

    Args:
        needed: the sides that are going to be held.

    Raises `InputError` where the delta lacks one of these, or one direction is nearly all of it.
    """
    sides = directions_of(pair, k, layers)
    refuse(sides, needed)
    outside = OffTopic(pair, list(texts))
    signed = {
        name: replace(side, directions=side.directions.to(pair.base.device) * signs(outside, pair, side))
        for name, side in sides.items()
    }
    return Looked(
        signed,
        {name: outside.causal(pair, side.directions) for name, side in signed.items()},
        {name: outside.overlap(pair, side.directions) for name, side in signed.items()},
        outside.drift(pair, signed[needed[0]].directions),
    )


def refuse(sides: Mapping[str, Side], needed: Sequence[str]) -> None:
    """Raise `InputError` where a side is missing or one direction has over 90 % of its energy."""
    for name in needed:
        doing = {"write": "writes to the residual stream", "read": "reads the residual stream"}[name]
        if name not in sides:
            raise InputError(
                f"the first delta changes no weight that {doing}, so that no direction can be read off it; take a "
                "tuner that changes attention and feed-forward weights (lora with its default targets, or full)"
            )
        if sides[name].energy[0] > SIMPLE:
            raise InputError(
                f"one direction has {sides[name].energy[0]:.0%} of the energy of what {doing} in the first delta: so "
                "simple a change is the task itself, and holding that direction would keep it from being learnt; tune "
                "on longer or more varied rows, or with a tuner that moves more (full), or leave the pair as it is"
            )


def signs(outside: OffTopic, pair: Pair, side: Side) -> Tensor:
    """[k] 1 or −1, so that the delta moves texts from outside towards each direction, over all blocks."""
    moved = outside.displacement(pair, side.directions.to(pair.base.device)).sum(0)
    return torch.where(moved < 0, -1.0, 1.0).to(side.directions).to(pair.base.device)
