"""What a step adds to the base's tensor, in pieces and not rounded; a sum of deltas is taken from the deltas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pairtune.errors import DeltaMismatch
from pairtune.merging.engine import compute
from pairtune.merging.engine.operands import Operands
from pairtune.merging.engine.plan import Step
from pairtune.merging.inputs.sources import Source, Stored


def changes(step: Step, base: Source) -> Iterator[Tensor]:
    """The flattened change, in float32 (float64 where the tensor is stored in it).

    A sum of changes is not led through the base's numbers, whose size would cost it digits. Raises `DeltaMismatch`
    naming a tensor that is not finite.
    """
    kind = torch.float64 if step.dtype == torch.float64 else torch.float32
    origin = Stored(base.tensors[step.name])
    rule = step.rule
    if rule is None or not rule.method.linear or step.base is None:
        start = 0
        for piece in compute.pieces(replace(step, dtype=kind)):
            yield piece - origin.value(start, start + len(piece), kind)
            start += len(piece)
        return
    scales = rule.method.scales(rule.weights)
    left = 0.0 if "base" in rule.method.needs else math.fsum(scales) - 1  # of the base itself, which a sum may scale
    inputs = tuple(place.source.read(place.name) for place in step.inputs)
    whole = Operands(step.name, step.shape, inputs, rule.weights, origin, kind, 0, math.prod(step.shape))
    for piece in whole.pieces():
        out = piece.base().mul_(left) if left else torch.zeros(piece.stop - piece.start, dtype=kind)
        for i, scale in enumerate(scales):
            out.add_(piece.change(i), alpha=scale)
        if not bool(out.isfinite().all()):
            raise DeltaMismatch(f"{step.name}: NaN or infinite values in what one of the models adds to it")
        yield out


def change_of(step: Step, base: Source) -> Tensor:
    """The whole change of one tensor."""
    found = list(changes(step, base))
    return (torch.cat(found) if found else torch.empty(0)).reshape(step.shape)
