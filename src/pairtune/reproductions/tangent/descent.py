"""Full-batch gradient descent on squares with a pull to the base, on some of an encoder's blocks, as in the theory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, jvp

from pairtune.pair.base import Base
from pairtune.tuners.linearized_model import plain_attention

Outputs = Callable[[dict[str, Tensor], dict[str, Any]], Tensor]


@dataclass(frozen=True)
class Run:
    """Where a run ended.

    Attributes:
        delta: θ − θ0 by name. losses: R(θ), the sum of ½ (f − y)², before each step and at the end.
    """

    delta: dict[str, Tensor]
    losses: list[float]

    @property
    def distance(self) -> float:
        """‖θ − θ0‖."""
        return sum(float(d.double().square().sum()) for d in self.delta.values()) ** 0.5


class Problem:
    """One scalar output a row, f = (second logit − first) / √2, and its targets ±1.

    Args:
        base: an encoder with two classes. names: what moves, by names in memory. batches: model inputs with labels.
    """

    def __init__(self, base: Base, names: list[str], batches: list[dict[str, Any]]):
        self.base, self.batches = base, batches
        self.point = {name: base.parameters[name].detach() for name in names}
        self.targets = [2.0 * batch["labels"].float() - 1.0 for batch in batches]

    def outputs(self, values: dict[str, Tensor], batch: dict[str, Any]) -> Tensor:
        """[B] outputs with some Parameters replaced."""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
        logits = functional_call(self.base.model, values, kwargs=inputs).logits
        return (logits[:, 1] - logits[:, 0]) / 2**0.5

    def descend(self, weight: float, rate: float, steps: int) -> Run:
        """θ ← θ − rate · (∇R + weight · (θ − θ0)), `steps` times."""
        delta = {name: torch.zeros_like(value) for name, value in self.point.items()}
        losses = []
        for step in range(steps + 1):
            values = {name: (self.point[name] + delta[name]).requires_grad_() for name in delta}
            total = 0.0
            gradients: dict[str, Tensor] = {name: weight * d for name, d in delta.items()}
            for batch, y in zip(self.batches, self.targets, strict=True):
                with torch.set_grad_enabled(step < steps):
                    loss = 0.5 * (self.outputs(values, batch) - y).square().sum()
                total += float(loss.detach())
                if step < steps:
                    for name, g in zip(delta, torch.autograd.grad(loss, list(values.values())), strict=True):
                        gradients[name] = gradients[name] + g
            losses.append(total)
            if step < steps:
                delta = {name: delta[name] - rate * gradients[name] for name in delta}
        return Run(delta, losses)

    @torch.no_grad()
    def linearisation_error(self, delta: dict[str, Tensor]) -> float:
        """‖f_θ − f̄_θ‖ / ‖f_θ − f_θ0‖ over the rows; 0 where nothing moved."""
        wrong = moved = 0.0
        with plain_attention(self.base.model):
            for batch in self.batches:
                start, slope = jvp(lambda p, batch=batch: self.outputs(p, batch), (self.point,), (delta,))  # type: ignore[misc]
                change = self.outputs({n: self.point[n] + delta[n] for n in delta}, batch) - start
                wrong += float((change - slope).double().square().sum())
                moved += float(change.double().square().sum())
        return (wrong / moved) ** 0.5 if moved else 0.0

    @torch.no_grad()
    def right(self, delta: dict[str, Tensor], batches: list[dict[str, Any]]) -> list[float]:
        """1 or 0 a row: whether the sign of the output is the label's."""
        values = {name: self.point[name] + delta[name] for name in delta}
        found = [(self.outputs(values, b) > 0).long() == b["labels"] for b in batches]
        return torch.cat(found).float().tolist()
