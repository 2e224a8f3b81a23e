"""A model's first-order expansion in some of its weights, as a module and as an installed delta."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from pairtune.errors import InputError
from pairtune.pair.installed import Installed, check_state, plain_parameters

if TYPE_CHECKING:
    from pairtune.pair.base import Base

_KIND = "_attn_implementation"
ORIGIN = "origin."  # before the names of a new head's first values, in a state


class LinearizedModel(nn.Module):
    """f_θ0 + alpha · J (θ − θ0), called like the model itself.

    Args:
        base: the base. call: the module to call for the stack below.
        point: θ0 of a new head, by names in memory. deltas: θ − θ0 by names in memory.
    """

    def __init__(self, base: Base, call: nn.Module, point: Mapping[str, Tensor], deltas: Mapping[str, nn.Parameter]):
        super().__init__()
        self.base_model = call
        self.config = base.model.config
        self.active, self.alpha = True, 1.0
        called = {id(parameter): name for name, parameter in call.named_parameters()}
        current = plain_parameters(base.model)
        self._called = {name: called[id(current[name])] for name in deltas}
        self._heads = dict(point)
        self.deltas = nn.ParameterList(deltas.values())
        self._names = list(deltas)

    def forward(self, **inputs: Any) -> Any:
        """The output at θ0, its logits moved along the delta."""
        if not self.active:
            return self.base_model(**inputs)
        moved = None
        if self.alpha:
            moved = self.tangent(inputs, dict(zip(self._names, self.deltas, strict=True)))
        with torch.no_grad():
            # Last, so that whoever reads the base's blocks by hooks finds numbers there and no derivatives.
            output = self._at(self._point({}), inputs) if self._heads else self.base_model(**inputs)
        if moved is not None:
            output.logits = output.logits + self.alpha * moved.to(output.logits.dtype)
        return output

    def tangent(self, inputs: Mapping[str, Any], deltas: Mapping[str, Tensor]) -> Tensor:
        """J δ, the shape of the logits; differentiable in δ."""
        parameters = dict(self.base_model.named_parameters())
        point = self._point({self._called[name]: parameters[self._called[name]].detach() for name in deltas})
        along = {self._called[name]: delta for name, delta in deltas.items()}
        still = {name: value for name, value in point.items() if name not in along}
        point = {name: point[name] for name in along}

        def logits(moving: dict[str, Tensor]) -> Tensor:
            return self._at({**still, **moving}, inputs).logits

        with plain_attention(self.base_model):
            return jvp(logits, (point,), (along,))[1]  # type: ignore[return-value]

    def _point(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return values | {self._called[name]: value for name, value in self._heads.items()}

    def _at(self, values: dict[str, Tensor], inputs: Mapping[str, Any]) -> Any:
        return functional_call(self.base_model, values, kwargs=dict(inputs))


class InstalledLinearized(Installed):
    """The delta of a linearised model: one tensor for each weight that moves, all zero at the start.

    Args:
        names: which of the base's Parameters move, by names in memory.

    Raises `InputError` for a quantised base.
    """

    model: LinearizedModel

    def __init__(self, base: Base, call: nn.Module, names: list[str]):
        call.requires_grad_(False)
        base.model.requires_grad_(False)
        current = plain_parameters(base.model)
        if lacking := [name for name in names if name not in current]:
            raise InputError(f"tuner linearized: {lacking[0]} is wrapped by an adapter below; save that pair merged")
        if fixed := [name for name in names if not current[name].is_floating_point()]:
            raise InputError(f"tuner linearized: {fixed[0]} is quantised and has no derivative; load the base whole")
        self._deltas = {name: nn.Parameter(torch.zeros_like(current[name])) for name in names}
        self._heads = {name: current[name].detach().clone() for name in names if name in base.new_names}
        model = LinearizedModel(base, call, self._heads, self._deltas)
        super().__init__(model.eval(), {base.view or "labels", "scale", "identity_at_start", "moves_logits"})
        self.base = base

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        return list(self._deltas.items())

    def origin(self, name: str) -> Tensor | None:
        return None if name in self.base.new_names else torch.zeros((), device=self.base.device)

    def state(self) -> dict[str, Tensor]:
        return super().state() | {f"{ORIGIN}{name}": value for name, value in self._heads.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        check_state(self.state(), tensors)
        super().load_state({name: tensor for name, tensor in tensors.items() if not name.startswith(ORIGIN)})
        for name, value in self._heads.items():
            value.copy_(tensors[f"{ORIGIN}{name}"])

    def on(self) -> None:
        self.model.active, self.model.alpha = True, 1.0

    def off(self) -> None:
        self.model.active = False

    def scale(self, alpha: float) -> None:
        self.model.active, self.model.alpha = True, alpha

    def frozen_modules(self) -> list[nn.Module]:
        return [self.model.base_model]


def moving(base: Base, layers: str | list[int]) -> list[str]:
    """The names in memory of the weights that move. Raises `InputError` for a block that the base does not have."""
    if layers == "all":
        return [name for name, parameter in base.parameters.items() if parameter is not None]
    wrong = [number for number in layers if number not in range(len(base.blocks))]
    if wrong or not layers:
        what = f"there is no block {wrong[0]}" if wrong else "no block is named"
        raise InputError(f"tuner.layers: {what}; {base.source} has blocks 0 to {len(base.blocks) - 1}")
    inside = tuple(f"{base.blocks[number][0]}." for number in layers)  # type: ignore[index]
    return [name for name in base.parameters if name.startswith(inside) or name in base.new_names]


@contextlib.contextmanager
def plain_attention(model: nn.Module) -> Iterator[None]:
    """While inside, attention is computed step by step: fused kernels have no forward-mode derivative."""
    configs: dict[int, Any] = {id(c): c for m in model.modules() if hasattr(c := getattr(m, "config", None), _KIND)}
    before = [(config, getattr(config, _KIND)) for config in configs.values()]
    try:
        for config, _ in before:
            setattr(config, _KIND, "eager")
        yield
    finally:
        for config, kind in before:
            setattr(config, _KIND, kind)
