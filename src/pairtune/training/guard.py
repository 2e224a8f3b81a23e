"""Where a NaN comes from: the batch is computed once more with an eye on every layer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def first_non_finite(model: nn.Module, compute: Callable[[], Tensor]) -> str | None:
    """Name the first layer at which something is not finite when a loss is computed again.

    Args:
        model: the module whose submodules are watched.
        compute: one forward to the scalar loss, with the random state that it had.

    Returns: one phrase, such as "the output of layers.2.mlp", "the loss itself" or "the gradient at layers.0"; None
    where all is finite this time.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"the weights {name}"
    with _watching(model) as found:
        loss = compute()
        if found["forward"]:
            return f"the output of {found['forward'][0]}"
        if not loss.isfinite():
            return "the loss itself (every layer's output is finite)"
        loss.backward()
        model.zero_grad(set_to_none=True)
    return f"the gradient at {found['backward'][0]}" if found["backward"] else None


@contextlib.contextmanager
def _watching(model: nn.Module) -> Iterator[dict[str, list[str]]]:
    """Names of modules with non-finite outputs, and with non-finite gradients of their outputs, in order of time."""
    found: dict[str, list[str]] = {"forward": [], "backward": []}
    handles = [
        module.register_forward_hook(_eye(name or type(module).__name__, found))
        for name, module in model.named_modules()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _eye(name: str, found: dict[str, list[str]]) -> Callable:
    def note(gradient: Tensor) -> None:
        if not gradient.isfinite().all():
            found["backward"].append(name)

    def look(_module: nn.Module, _args: Any, output: Any) -> None:
        for tensor in tensors_in(output):
            # −inf is a mask's ordinary value; NaN and +inf are never wanted.
            if tensor.is_floating_point() and (tensor.isnan().any() or tensor.isposinf().any()):
                found["forward"].append(name)
                return
            if tensor.requires_grad:
                tensor.register_hook(note)

    return look


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in a module's output, through tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def finite_state(tensors: dict[str, Tensor]) -> bool:
    """Whether a delta is worth keeping."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values() if tensor.is_floating_point())
