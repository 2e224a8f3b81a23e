"""Empirical tangent kernels of layers, without a gradient per sample: one batched pass a kind of output, then products.

    K_l = Σ_k J_{l,k} J_{l,k}ᵀ,   J_{l,k} = ∂f_k(X)/∂θ_l        f_k(X): [n], output k of n rows; θ_l: a layer's weights

For a linear layer the gradient of one row is Σ_t g_t x_tᵀ of its inputs x: [T, i] and its outputs' gradients g: [T, o],
which hooks catch for a whole batch. Entries of K_l come from whichever costs less: the gradients themselves, some
output channels at a time, ⟨Σ_t g_t x_tᵀ, Σ_s g'_s x'_sᵀ⟩, or the products of tokens, Σ_{t,s} (g_t · g'_s)(x_t · x'_s).
A layer that runs several times in a forward (shared blocks) has its tokens strung together, which is exact.

Linear layers (PyTorch's and GPT-2's), among them the factors of a LoRA, and norms are covered; what else a layer holds
is named in `left_out`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

Batch = dict[str, Any]
Outputs = Callable[[Batch], Tensor]  # [B, K] differentiable outputs of the rows of a batch
MOST = 1 << 24  # numbers that one slice of all rows' gradients may hold: 64 MiB


@dataclass
class _Seen:
    """A module's inputs and outputs' gradients in one batch, [B, T, ·] each, over all its calls."""

    inputs: list[Tensor] = field(default_factory=list)
    gradients: dict[int, Tensor] = field(default_factory=dict)

    def x(self) -> Tensor:
        return torch.cat(self.inputs, dim=1)

    def g(self) -> Tensor:
        filled = [self.gradients.get(i) for i in range(len(self.inputs))]
        known = next(one for one in filled if one is not None)
        parts = [
            one if one is not None else known.new_zeros(*x.shape[:2], known.shape[-1])
            for one, x in zip(filled, self.inputs, strict=True)
        ]
        return torch.cat(parts, dim=1)


def covered(module: nn.Module) -> bool:
    """Whether this is a module whose own parameters are covered."""
    return is_linear(module) or is_norm(module)


def is_linear(module: nn.Module) -> bool:
    """A product with a matrix of floating-point numbers, stored either way round."""
    plain = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    return plain and module.weight.is_floating_point()  # type: ignore[union-attr]


def is_norm(module: nn.Module) -> bool:
    """A norm over the last axis with a weight for each channel."""
    weight = module._parameters.get("weight")
    return "Norm" in type(module).__name__ and weight is not None and weight.ndim == 1


def kernels(
    layers: Mapping[str, Mapping[str, nn.Module]], batches: Sequence[Batch], outputs: Outputs, entry: nn.Module
) -> dict[str, np.ndarray]:
    """The kernel of each layer over all rows of the batches.

    Args:
        layers: layer → its covered modules, by name. A module may stand in one layer only.
        batches: model inputs; padding must not reach the outputs.
        outputs: [B, K] of the rows of a batch, run in evaluation mode and with gradients on; the same K everywhere.
        entry: the first module that gradients must reach: its input is made to ask for them.

    Returns: [n, n] float64 by layer, in the order of the batches' rows.
    """
    collector = _Collector({name: module for own in layers.values() for name, module in own.items()}, entry)
    rows = sum(len(batch["input_ids"]) for batch in batches)
    totals = {layer: np.zeros((rows, rows)) for layer in layers}
    k, count = 0, 1
    with collector, torch.enable_grad():
        while k < count:
            # One output after another, each with a forward of its own: gradients of one at a time are in memory.
            found: dict[str, list[_Batch]] = {name: [] for name in collector.modules}
            for batch in batches:
                seen, count = collector.run(batch, outputs, k)
                for name, one in seen.items():
                    found[name].append(one)
            for layer, own in layers.items():
                for name in own:
                    totals[layer] += gram(found.pop(name))
            k += 1
    return totals


_Batch = tuple[Tensor, Tensor, bool]  # x [B, T, i], g [B, T, o], whether it is a product (else elementwise)


def gram(parts: Sequence[_Batch]) -> np.ndarray:
    """[n, n] inner products of all rows' gradients of one module."""
    if not parts[0][2]:
        sums = torch.cat([(x * g).sum(1) for x, g, _ in parts])
        return (sums @ sums.T).double().numpy()
    n, length = sum(len(x) for x, _, _ in parts), max(x.shape[1] for x, _, _ in parts)
    inner, outer = parts[0][0].shape[-1], parts[0][1].shape[-1]
    by_gradient = n * length * inner * outer + n * n * inner * outer
    by_token = n * n * length * length * (inner + outer) / 2
    return _by_gradient(parts, n, inner, outer) if by_gradient <= by_token else _by_token(parts)


def _by_gradient(parts: Sequence[_Batch], n: int, inner: int, outer: int) -> np.ndarray:
    total = np.zeros((n, n))
    step = max(1, MOST // (n * inner))
    for start in range(0, outer, step):
        slices = [torch.bmm(g[..., start : start + step].transpose(1, 2), x).flatten(1) for x, g, _ in parts]
        rows = torch.cat(slices)
        total += (rows @ rows.T).double().numpy()
    return total


def _by_token(parts: Sequence[_Batch]) -> np.ndarray:
    places = np.cumsum([0, *(len(x) for x, _, _ in parts)])
    total = np.zeros((places[-1], places[-1]))
    for a, (x, g, _) in enumerate(parts):
        for b, (other_x, other_g, _) in enumerate(parts[: a + 1]):
            shape = (len(x), x.shape[1], len(other_x), other_x.shape[1])
            both = (x.flatten(0, 1) @ other_x.flatten(0, 1).T) * (g.flatten(0, 1) @ other_g.flatten(0, 1).T)
            block = both.view(shape).sum((1, 3)).double().numpy()
            total[places[a] : places[a + 1], places[b] : places[b + 1]] = block
            total[places[b] : places[b + 1], places[a] : places[a + 1]] = block.T
    return total


class _Collector:
    """Hooks on the modules that keep inputs, and on their outputs that keep gradients."""

    def __init__(self, modules: Mapping[str, nn.Module], entry: nn.Module):
        self.modules, self._entry = dict(modules), entry
        self._seen: dict[str, _Seen] = {}
        self._reading = False
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        self._handles.append(self._entry.register_forward_pre_hook(_ask, with_kwargs=True))
        for name, module in self.modules.items():
            self._handles.append(module.register_forward_hook(self._look(name)))

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def run(self, batch: Batch, outputs: Outputs, k: int) -> tuple[dict[str, _Batch], int]:
        """x and g of every module for output k, and how many outputs there are."""
        self._seen = {name: _Seen() for name in self.modules}
        self._reading = True
        values = outputs(batch)
        self._reading = False
        values[:, k].sum().backward()
        found = {
            name: (self._flat(name, seen.x()), self._gradient(name), is_linear(self.modules[name]))
            for name, seen in self._seen.items()
        }
        return found, values.shape[1]

    def _look(self, name: str):
        def hook(_module: nn.Module, args: tuple, output: Tensor) -> None:
            if not self._reading:
                return
            seen, place = self._seen[name], len(self._seen[name].inputs)
            seen.inputs.append(_three(args[0].detach()))
            if output.requires_grad:
                output.register_hook(lambda g: seen.gradients.__setitem__(place, _three(g)))

        return hook

    def _flat(self, name: str, x: Tensor) -> Tensor:
        """What the gradient of the weights is a product with: the input (and 1 for a bias), or what a norm makes."""
        module = self.modules[name]
        if is_linear(module):
            return torch.cat([x, x.new_ones(*x.shape[:2], 1)], -1) if module.bias is not None else x  # type: ignore[arg-type]
        with torch.no_grad():
            # Linear in its weights: the difference between ones and zeros is what each is multiplied with.
            values = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
            ones = values | {"weight": torch.ones_like(values["weight"])}
            made = functional_call(module, ones, (x,)) - functional_call(module, values, (x,))
        return torch.cat([made, torch.ones_like(made)], -1) if "bias" in values else made

    def _gradient(self, name: str) -> Tensor:
        """What that is multiplied with; a norm's bias stands behind its weight."""
        g, module = self._seen[name].g().detach(), self.modules[name]
        return g if is_linear(module) or module._parameters.get("bias") is None else torch.cat([g, g], -1)


def _three(x: Tensor) -> Tensor:
    """[B, T, d], also of a module that reads one vector a row."""
    return x.float() if x.ndim == 3 else x.float().unsqueeze(1)


def _ask(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    if args:
        return (args[0].detach().requires_grad_(), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": kwargs["hidden_states"].detach().requires_grad_()}
