"""Sharpness of a loss around a model's weights, or around some of them: how far it rises within a relative radius.

    worst case    S_max = mean_b max_{|d_i| <= rho |theta_i|} L_b(theta + d) - L_b(theta)
    average case  S_avg = mean_b E_{d ~ N(0, I)} L_b(theta + rho |theta| * d) - L_b(theta)       b: a batch

The radius of a weight is a share rho of its size (adaptive: Kwon et al., arXiv 2102.11600), so that scaling a layer up
and the next one down changes nothing, and every layer has the same relative radius; a weight of 0 has none. Measured so
for CLIP in arXiv 2410.16476 and before in Andriushchenko et al., arXiv 2302.07011: the maximum is sought for every
batch on its own by auto-PGD (Croce and Hein, arXiv 2003.01690): steps along the sign of the gradient, first of 2 rho,
momentum 0.75, halved where fewer than 75 % of the steps since the last check have helped or nothing has; the best loss
counts. Departure: the ascent begins at theta rather than at a random point of the box, so that it repeats to the digit.

For any model with a loss over batches. Parameters are exchanged while it lasts and put back to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pairtune.errors import NonFiniteError
from pairtune.pair.installed import plain_parameters
from pairtune.pair.line import exchanged
from pairtune.pair.pair import evaluating

Loss = Callable[[Any], Tensor]  # a batch → its mean loss, a scalar that can be differentiated
MOMENTUM, ENOUGH = 0.75, 0.75
TINY = 1e-10


def worst_case(
    model: nn.Module,
    loss: Loss,
    batches: Sequence[Any],
    rho: float,
    names: Collection[str] | None = None,
    iterations: int = 20,
) -> float:
    """S_max, at least 0, in the loss's unit; dropout is off.

    Args:
        rho: radius as a share of each weight's size, above 0.
        names: the Parameters that are perturbed, by name; None: all.
        iterations: steps of the ascent a batch; each costs one forward and one backward.

    Raises `NonFiniteError` where the loss at theta itself is not finite.
    """
    with evaluating(model), exchanged(model, _copies(model, names)) as own, torch.enable_grad():
        for parameter in own.values():
            parameter.requires_grad_(True)
        rises = [_ascend(list(own.values()), lambda batch=batch: loss(batch), rho, iterations) for batch in batches]
    return float(sum(rises) / len(rises))


@torch.no_grad()
def average_case(
    model: nn.Module,
    loss: Loss,
    batches: Sequence[Any],
    rho: float,
    names: Collection[str] | None = None,
    draws: int = 20,
    seed: int = 0,
) -> float:
    """S_avg in the loss's unit, over `draws` Gaussian draws that all batches share; other arguments as `worst_case`."""
    generator = torch.Generator().manual_seed(seed)
    with evaluating(model), exchanged(model, _copies(model, names)) as own:
        centre = {name: parameter.detach().clone() for name, parameter in own.items()}
        before = [_finite(loss(batch)) for batch in batches]
        total = 0.0
        for _ in range(draws):
            for name, parameter in own.items():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.copy_(centre[name] + rho * centre[name].abs() * noise)
            total += sum(float(loss(batch)) for batch in batches)
    return total / (draws * len(batches)) - sum(before) / len(batches)


def normalised(logits: Tensor) -> Tensor:
    """Logits [..., C] without their mean and of length 1, so that sharpness cannot follow the logits' scale."""
    centred = logits - logits.mean(-1, keepdim=True)
    return centred / centred.norm(dim=-1, keepdim=True).clamp(min=TINY)


def checkpoints(iterations: int) -> list[int]:
    """After how many steps the step size is looked at: auto-PGD's schedule, denser towards the end."""
    shares, found = [0.0, 0.22], [math.ceil(0.22 * iterations)]
    while found[-1] < iterations:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
        found.append(math.ceil(shares[-1] * iterations - 1e-9))  # 0.57 is a little more than 0.57
    return sorted({one for one in found if 0 < one < iterations})


def _ascend(own: list[nn.Parameter], loss: Callable[[], Tensor], rho: float, iterations: int) -> float:
    """How far the loss rises in the box; the Parameters hold their old values again afterwards."""
    centre = [parameter.detach().clone() for parameter in own]
    radius = [rho * one.abs() for one in centre]
    zero = [torch.zeros_like(one) for one in centre]
    now, before, best = zero, zero, zero  # displacements: of this step, of the one before, of the highest loss
    value = loss()
    start = highest = _finite(value)
    size, helped, since = 2.0, 0, 0  # step in radii; steps that helped since the last check, and when that was
    known = (size, highest)
    checks = set(checkpoints(iterations))
    for i in range(1, iterations + 1):
        slopes = torch.autograd.grad(value, own, allow_unused=True)
        ahead = [
            _within(d + size * r * (g.sign() if g is not None else 0.0), r)
            for d, r, g in zip(now, radius, slopes, strict=True)
        ]
        if i > 1:
            moved = zip(now, before, ahead, radius, strict=True)
            ahead = [_within(d + MOMENTUM * (z - d) + (1 - MOMENTUM) * (d - p), r) for d, p, z, r in moved]
        before, now = now, ahead
        value = _put(own, centre, now, loss)
        if value.item() > highest:
            highest, best, helped = value.item(), now, helped + 1
        if i in checks:
            few = helped < ENOUGH * (i - since)
            if few or known == (size, highest):
                size /= 2
                now = before = best
                value = _put(own, centre, now, loss)
                known = (-1.0, highest)  # a size that has just been halved is not judged stuck at the next check
            else:
                known = (size, highest)
            helped, since = 0, i
    _put(own, centre, zero, None)
    return highest - start


def _put(own: list[nn.Parameter], centre: list[Tensor], moved: list[Tensor], loss: Callable[[], Tensor] | None) -> Any:
    with torch.no_grad():
        for parameter, one, d in zip(own, centre, moved, strict=True):
            parameter.copy_(one + d)
    return loss() if loss is not None else None


def _within(moved: Tensor, radius: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(moved, radius), -radius)


def _copies(model: nn.Module, names: Collection[str] | None) -> dict[str, Tensor]:
    """Fresh copies of the Parameters that are perturbed."""
    known = plain_parameters(model)
    chosen = [name for name in known if names is None or name in names]
    return {name: known[name].detach().clone() for name in chosen if known[name].is_floating_point()}


def _finite(value: Tensor) -> float:
    found = value.item()
    if not math.isfinite(found):
        raise NonFiniteError(f"the loss is {found} where sharpness is to be measured")
    return found
