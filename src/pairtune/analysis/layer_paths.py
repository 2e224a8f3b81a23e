"""Which layers lag behind on the path: one layer moves from base to variant, all others stay, and the loss is watched.

arXiv 2410.16476 says that a few "straggler" layers decide whether the path between two states of a model is worth
going. Its criterion is not confirmed; ours, from ID rows alone, is operational:

    theta^(l)(a) = theta_1 but for layer l, which stands at theta_0 + a Delta_l    (the mirror: theta_0 but for layer l)
    barrier_l = max_a [ L(theta^(l)(a)) - chord(a) ]      chord: the line between L(theta^(l)(0)) and L(theta^(l)(1))
    lag_l     = ∫ L(theta^(l)(a)) - chord(a) da             by trapezia; above the chord counts as positive

Stragglers are the layers whose lag lies above mean + 1 standard deviation of all layers. Layers are the halves of
transformer blocks (attention, and the rest with the MLP), or whole blocks. For any model with a loss over batches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from pairtune.errors import InputError
from pairtune.pair.line import Line
from pairtune.pair.names import blocks

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
HALVES = ("attention", "mlp")
ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


@dataclass(frozen=True)
class LayerPath:
    """The losses of one layer's path at some places, and what they say.

    Attributes:
        places: alpha, ascending from 0 to 1. losses: mean loss with all other layers at 1. mirror: with them at 0.
    """

    places: list[float]
    losses: list[float]
    mirror: list[float]

    @property
    def heights(self) -> np.ndarray:
        """[A] how far the loss lies above the chord between its ends."""
        return above_chord(self.losses, self.places)

    @property
    def mirror_heights(self) -> np.ndarray:
        """[A] the same of the mirror."""
        return above_chord(self.mirror, self.places)

    @property
    def barrier(self) -> float:
        """The highest of the heights; 0 at the least, since the ends lie on the chord."""
        return float(self.heights.max())

    @property
    def lag(self) -> float:
        """The area above the chord minus that below."""
        return float(np.trapezoid(self.heights, self.places))

    @property
    def mirror_lag(self) -> float:
        """The same of the mirror."""
        return float(np.trapezoid(self.mirror_heights, self.places))


def layer_groups(model: nn.Module, names: Collection[str], halves: bool = True) -> dict[str, list[str]]:
    """Layer → those of the named Parameters that are its own; Parameters outside of blocks belong to none.

    Args:
        halves: attention and the rest of each block apart, as `3 attention` and `3 mlp`; else whole blocks, as `3`.
            Blocks are numbered in the order in which they run.

    Raises `InputError` for a model without blocks, or where no block has any of the names.
    """
    found: dict[str, list[str]] = {}
    known = blocks(model)
    for i, (prefix, _) in enumerate(known):
        own = [name for name in names if name.startswith(prefix + ".")]
        of_half = {name: _half(name[len(prefix) + 1 :]) for name in own}
        parts = {f"{i} {half}": [name for name in own if of_half[name] == half] for half in HALVES}
        found |= {part: held for part, held in (parts if halves else {f"{i}": own}).items() if held}
    if not found:
        why = "no transformer block is found in this model" if not known else "nothing changes in any block"
        raise InputError(f"{why}, so that there are no layers to compare")
    return found


def _half(name: str) -> str:
    """A norm that stands alone counts with the MLP, also where its name speaks of the attention before it."""
    pieces = [piece for piece in name.split(".") if "norm" not in piece.lower()]
    return HALVES[0] if any(ATTENTION.search(piece) for piece in pieces) else HALVES[1]


@torch.no_grad()
def layer_paths(
    line: Line,
    groups: Mapping[str, Collection[str]],
    mean_loss: Callable[[], float],
    places: Sequence[float] = PLACES,
    step: Callable[[str], None] = lambda _: None,
) -> dict[str, LayerPath]:
    """The path of every layer, all others at 1, and its mirror, all others at 0.

    Args:
        mean_loss: the mean loss of the line's model as it is now, over fixed ID rows, dropout off.
    """

    def loss(rest: float, group: Collection[str], alpha: float) -> float:
        with line.at(rest, group, alpha):
            return mean_loss()

    ends = {rest: loss(rest, (), rest) for rest in (0.0, 1.0)}  # of all layers' paths: the plain ends
    found = {}
    for name, group in groups.items():
        step(f"path of layer {name}")
        own, ids = {}, frozenset(group)
        for rest in (1.0, 0.0):
            own[rest] = [ends[rest] if alpha == rest else loss(rest, ids, alpha) for alpha in places]
        found[name] = LayerPath(list(places), own[1.0], own[0.0])
    return found


def above_chord(losses: Sequence[float], places: Sequence[float]) -> np.ndarray:
    """[A] losses minus the line between the first and the last."""
    values, at = np.asarray(losses, dtype=float), np.asarray(places, dtype=float)
    return values - np.interp(at, [at[0], at[-1]], [values[0], values[-1]])


def stragglers(scores: Mapping[str, float], top: int | None = None) -> list[str]:
    """The layers above mean + 1 standard deviation, highest first; or the `top` highest."""
    order = sorted(scores, key=lambda name: -scores[name])
    if top is not None:
        return order[:top]
    values = np.array(list(scores.values()))
    bound = values.mean() + values.std()
    return [name for name in order if scores[name] > bound + 1e-12]


def overlap(one: Collection[str], other: Collection[str]) -> float:
    """Shared layers as a share of those in either (Jaccard); 1 where both are empty."""
    union = set(one) | set(other)
    return len(set(one) & set(other)) / len(union) if union else 1.0


def agreement(paths: Mapping[str, LayerPath], chosen: Collection[str]) -> tuple[float, float]:
    """How stable a choice is: its overlap with the mirror's stragglers, and on average with those at single places."""
    mirror = stragglers({name: one.mirror_lag for name, one in paths.items()})
    inner = range(1, len(next(iter(paths.values())).places) - 1)
    at = [stragglers({name: float(one.heights[i]) for name, one in paths.items()}) for i in inner]
    return overlap(chosen, mirror), float(np.mean([overlap(chosen, one) for one in at]))


def thinned(line: Line, groups: Collection[Collection[str]], keep: float) -> Line:
    """The line whose end keeps, of each group's change, only the largest entries and has the start's values elsewhere.

    Args:
        groups: the layers that are thinned; the entries of a layer's tensors compete with one another.
        keep: which share of a layer's entries stays, 0 … 1; of equal entries the first.
    """
    if not 0 <= keep <= 1:
        raise InputError(f"keep: a share from 0 to 1, found {keep:g}")
    end = dict(line.end)
    for group in groups:
        changes = {name: (line.end[name].float() - line.start[name].float()).abs().flatten() for name in group}
        sizes = torch.cat(list(changes.values()))
        kept = torch.zeros_like(sizes, dtype=torch.bool)
        kept[sizes.argsort(descending=True, stable=True)[: round(keep * len(sizes))]] = True
        for name, mask in zip(changes, kept.split([len(one) for one in changes.values()]), strict=True):
            end[name] = torch.where(mask.view_as(line.end[name]), line.end[name], line.start[name])
    return replace(line, end=end, change=None)
