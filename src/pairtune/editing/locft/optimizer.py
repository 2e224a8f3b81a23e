"""Adam on float32 copies of what trains, with a bound on every number where one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pairtune.pair.installed import Installed

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Master:
    """Adam at a constant rate, without decay and clipping.

    Where the model is in half precision, the steps are summed up in float32 and rounded into the model: a step is far
    smaller than the last digit of a bfloat16 weight, so that summed in place it would be lost.

    Args:
        bound: the most that a number may move away from where it was when `renew` was last called.
    """

    def __init__(self, installed: Installed, lr: float, bound: float | None = None):
        self._own = {name: p for name, p in installed.trainable() if p.requires_grad}
        self.values: dict[str, Tensor] = {
            name: p if p.dtype == torch.float32 else nn.Parameter(p.detach().float()) for name, p in self._own.items()
        }
        self._lr, self._bound = lr, bound
        self.renew()

    def renew(self) -> None:
        """Forget the moments, and measure the bound from here on."""
        self._fused = next(iter(self.values.values())).device.type in ("cpu", "cuda")
        self._adam = torch.optim.Adam(list(self.values.values()), lr=self._lr, fused=self._fused)
        self.anchors = {} if self._bound is None else {name: v.detach().clone() for name, v in self.values.items()}

    def step(self) -> None:
        """One step along the gradients of the model's parameters, which are cleared."""
        for name, parameter in self._own.items():
            if parameter is not self.values[name]:
                self.values[name].grad = None if parameter.grad is None else parameter.grad.float()
        self._adam.step()
        with torch.no_grad():
            for name, value in self.values.items():
                if self._bound is not None:
                    start = self.anchors[name]
                    value.copy_(torch.maximum(torch.minimum(value, start + self._bound), start - self._bound))
                if self._own[name] is not value:
                    self._own[name].copy_(value)
                self._own[name].grad = value.grad = None

    # -- to disk and back --------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on: values, moments, anchors."""
        found = {f"{name}|value": value.detach() for name, value in self.values.items()}
        found |= {f"{name}|anchor": anchor for name, anchor in self.anchors.items()}
        for name, value in self.values.items():
            found |= {f"{name}|{key}": moment for key, moment in self._adam.state.get(value, {}).items()}
        return found

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        with torch.no_grad():
            for name, value in self.values.items():
                value.copy_(tensors[f"{name}|value"])
                if self._own[name] is not value:
                    self._own[name].copy_(value)
                if f"{name}|anchor" in tensors:
                    self.anchors[name].copy_(tensors[f"{name}|anchor"])
                moments = {key: tensors[f"{name}|{key}"] for key in MOMENTS if f"{name}|{key}" in tensors}
                if moments:  # only a fused step counts its steps on the device
                    self._adam.state[value] = {
                        key: moment.to(value.device) if moment.ndim or self._fused else moment
                        for key, moment in moments.items()
                    }
