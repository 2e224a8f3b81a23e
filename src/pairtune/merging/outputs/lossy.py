"""A delta in less room than it has: its largest entries alone, or the sign of every entry with one size a tensor.

Tensors are read in pieces, three times to choose the entries (twice for a global or layer-wise threshold, once to count
what lies above it) and once to write them, so that the memory holds the pieces and what is kept of one tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from pairtune.errors import InputError
from pairtune.merging.engine.plan import Step
from pairtune.merging.inputs.sources import Source
from pairtune.merging.outputs.changes import changes
from pairtune.pair.parts import Part, Sign, Sparse
from pairtune.pair.sign import packed
from pairtune.pair.tensor_names import layer_of
from pairtune.tuners.selection import Cut, cut

By = Literal["global", "layer"]


@dataclass(frozen=True)
class Form:
    """What is kept of a change.

    Attributes:
        density: share of the entries, above 0 and at most 1; None: the signs of all.
        by: over what the largest entries are chosen: all changed tensors together, or each layer on its own.
    """

    density: float | None = None
    by: By = "global"

    @classmethod
    def of(cls, sparsify: float | None, by: str | None, sign: bool, to: str) -> Form | None:
        """From the settings of a merge; None where nothing is to be lost. Raises `InputError` for what cannot be."""
        given = [
            name
            for name, one in (("sparsify", sparsify), ("sparsify_by", by), ("sign", sign or None))
            if one is not None
        ]
        if not given:
            return None
        if to != "delta":
            raise InputError(f"{given[0]}: is a form of a delta, --to delta, not of --to {to}")
        if sign and len(given) > 1:
            raise InputError(
                "sign: keeps one bit of every entry, so that there is nothing to sparsify; take one of them"
            )
        if not sign and sparsify is None:
            raise InputError("sparsify_by: says over what --sparsify SHARE chooses; give the share too")
        if sparsify is not None and not 0 < sparsify <= 1:
            raise InputError(f"sparsify: expected a share above 0 and at most 1, found {sparsify:g}")
        return cls(sparsify, "layer" if by == "layer" else "global")

    @property
    def about(self) -> dict[str, Any]:
        """As it stands in a card."""
        return {"sign": True} if self.density is None else {"sparsify": self.density, "by": self.by}


@dataclass(frozen=True)
class Kept:
    """What a tensor becomes.

    Attributes:
        notes: of its part, for the delta's file.
        announced: key → an empty tensor of the type and shape that `make` gives under it.
        make: reads the change once more.
        entries: how many are kept.
        lost, total: Frobenius norms of what is left out, and of the change.
    """

    notes: dict[str, Any]
    announced: dict[str, Tensor]
    make: Callable[[], Part]
    entries: int
    lost: float
    total: float


def keep(steps: Sequence[Step], base: Source, form: Form) -> dict[str, Kept]:
    """What is kept of the steps' changes, by tensor; one of which nothing is kept is there with 0 entries."""
    if form.density is None:
        return {step.name: _signs(step, base) for step in steps}
    groups: dict[str, list[Step]] = {}
    for step in steps:
        groups.setdefault(layer_of(step.name) if form.by == "layer" else "", []).append(step)
    found: dict[str, Kept] = {}
    for group in groups.values():
        found |= _largest(group, base, form.density)
    return found


def errors(found: Mapping[str, Kept]) -> dict[str, float]:
    """By layer, the norm of what is left out as a share of that of the change; unchanged layers are not there."""
    layers: dict[str, list[Kept]] = {}
    for name, one in found.items():
        layers.setdefault(layer_of(name), []).append(one)
    totals = {layer: math.hypot(*(one.total for one in kept)) for layer, kept in layers.items()}
    return {
        layer: math.hypot(*(one.lost for one in kept)) / totals[layer]
        for layer, kept in layers.items()
        if totals[layer]
    }


def _largest(steps: Sequence[Step], base: Source, density: float) -> dict[str, Kept]:
    total = sum(math.prod(step.shape) for step in steps)
    end = cut(
        lambda: (piece.abs().float() for step in steps for piece in changes(step, base)), max(1, round(density * total))
    )
    left = end.ties if end.last else 0  # an entry of 0 says nothing
    found = {}
    for step in steps:
        above = equal = 0
        squares, chosen = [], []
        for piece in changes(step, base):
            larger, ties = end.taken(piece.abs().float())
            above, equal = above + int(larger.sum()), equal + int(ties.sum())
            squares.append(float(piece.double().square().sum()))
            chosen.append(float(piece[larger].double().square().sum()))
        own = Cut(end.last, min(left, equal))
        left -= own.ties
        size = float(torch.tensor(end.last, dtype=torch.int32).view(torch.float32))
        kept = math.fsum(chosen) + own.ties * size**2
        whole = math.fsum(squares)
        count = above + own.ties
        part = Sparse(step.shape, torch.empty(count, dtype=torch.int64), torch.empty(count, dtype=_kind(step)))
        found[step.name] = Kept(
            part.notes(), _announced(step, part), partial(_sparse, step, base, own), count,
            math.sqrt(max(whole - kept, 0.0)), math.sqrt(whole),
        )  # fmt: skip
    return found


def _sparse(step: Step, base: Source, end: Cut) -> Sparse:
    """The entries above the cut, and the first ones that are equal to it."""
    start, left = 0, end.ties
    index, values = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=_kind(step))]
    for piece in changes(step, base):
        chosen, ties = end.taken(piece.abs().float())
        first = ties.nonzero().squeeze(1)[:left]
        chosen[first] = True
        left -= len(first)
        index.append(chosen.nonzero().squeeze(1) + start)
        values.append(piece[chosen])
        start += len(piece)
    return Sparse(step.shape, torch.cat(index), torch.cat(values))


def _signs(step: Step, base: Source) -> Kept:
    count = math.prod(step.shape)
    sizes, squares = [], []
    for piece in changes(step, base):
        wide = piece.double()
        sizes.append(float(wide.abs().sum()))
        squares.append(float(wide.square().sum()))
    total, scale = math.fsum(squares), math.fsum(sizes) / max(count, 1)
    part = Sign(step.shape, torch.empty(-(-count // 8), dtype=torch.uint8), torch.tensor(scale, dtype=torch.float32))
    lost = math.sqrt(max(total - count * scale**2, 0.0))

    def make() -> Sign:
        return Sign(step.shape, torch.cat([part.bits[:0], *packed(changes(step, base))]), part.scale)

    return Kept(part.notes(), _announced(step, part), make, count if total else 0, lost, math.sqrt(total))


def _announced(step: Step, part: Part) -> dict[str, Tensor]:
    return {f"{step.name}::{ending}": tensor.to("meta") for ending, tensor in part.tensors().items()}


def _kind(step: Step) -> torch.dtype:
    return torch.float64 if step.dtype == torch.float64 else torch.float32


def tensors_of(name: str, kept: Kept) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a part by their keys in a delta's file."""
    for ending, tensor in kept.make().tensors().items():
        yield f"{name}::{ending}", tensor
