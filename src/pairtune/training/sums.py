"""Sums of the loss's parts between two lines of the log."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Sums:
    """Adds up parts by name on their device; `take` gives means over the steps since the last line."""

    def __init__(self) -> None:
        self.parts: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, parts: dict[str, Tensor]) -> None:
        """One micro-batch's parts, already divided by the units of its step."""
        for name, value in parts.items():
            value = value.detach().double()
            self.parts[name] = self.parts[name] + value if name in self.parts else value

    def take(self, args: Any) -> dict[str, float]:
        """Means a step, summed over processes; the sums start again."""
        result = {
            name: across_processes(value, args).item() / max(self.steps, 1)
            for name, value in sorted(self.parts.items())
        }
        self.parts, self.steps = {}, 0
        return result

    def copy(self) -> Sums:
        """For the case that a step is computed again."""
        other = Sums()
        other.parts, other.steps = dict(self.parts), self.steps
        return other

    def state(self) -> dict[str, Any]:
        """For the checkpoint; exact, since a double survives JSON."""
        return {"parts": {name: value.item() for name, value in self.parts.items()}, "steps": self.steps}

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """The inverse of `state`."""
        self.parts = {k: torch.tensor(v, dtype=torch.float64, device=device) for k, v in state["parts"].items()}
        self.steps = int(state["steps"])


def across_processes(value: Tensor, args: Any) -> Tensor:
    """The sum of a tensor over all processes."""
    if args.world_size > 1:
        value = value.detach().clone().to(args.device)
        torch.distributed.all_reduce(value)
    return value
