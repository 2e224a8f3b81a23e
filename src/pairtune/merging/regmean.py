"""Linear layers merged so that each gives, on every model's own inputs, nearly what that model gives (RegMean).

Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", arXiv 2212.09849: what one linear layer
should be, so that its outputs are nearest in squares to those of all models on their data, has a closed form, which
needs no more of the data than the inner products of the layer's inputs.

    G_i = X_iᵀ X_i / T_i                                X_i: [T_i, in] the layer's inputs in model i, one row a token
    G'_i = α G_i + (1 − α) diag(G_i)
    Wᵀ  = (sum_i w_i G'_i)⁻¹ sum_i w_i G'_i W_iᵀ        W_i: [out, in]

for the weights of linear layers; everything else (biases, norms, embeddings and heads tied to them) is the weighted
mean. It is solved in float64 as the weighted mean plus a solution for the models' differences from it, which is the
same and gives equal models back to the bit; where the sum of the G' has no inverse (inputs that are always 0, α = 1 on
few tokens) that solution is the smallest one. No ridge is added.

α = 0.9 is the paper's for most models, as remembered; the authors' configuration for DeBERTa has 0.1 (checked in
github.com/bloomberg/dataless-model-merging). Dividing by T_i is as in their code: the paper's formula has no such
factor, and a model with longer texts would weigh more. Padding does not count, since rows are read one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from pairtune import method
from pairtune.merging import Merge
from pairtune.merging.weights import normalized

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn

    from pairtune.merging.engine.operands import Operands
    from pairtune.pair.pair import Pair


class RegMean(Merge):
    """Collecting keeps in · in numbers in float64 for every linear layer beside the model."""

    needs = frozenset({"samples"})
    models = (2, 1_000_000)
    signed = False
    unit = "row"

    class Settings(method.Settings):
        alpha: float = Field(0.9, ge=0, le=1, description="α: factor of the inner products between different inputs")

    settings: Settings

    def collect(self, pair: Pair, batches: Iterable[dict[str, Any]]) -> dict[str, Tensor]:
        layers = _linear_layers(pair)
        total: dict[str, Tensor] = {}
        tokens: dict[str, int] = {}

        def look(name: str, _module: nn.Module, args: tuple[Any, ...]) -> None:
            inputs = args[0].detach().reshape(-1, args[0].shape[-1]).double()
            found = inputs.T @ inputs
            total[name] = found if name not in total else total[name].add_(found)
            tokens[name] = tokens.get(name, 0) + len(inputs)

        hooks = [module.register_forward_pre_hook(partial(look, name)) for name, module in layers.items()]
        try:
            with torch.no_grad():
                for batch in batches:
                    pair.forward(batch)
        finally:
            for hook in hooks:
                hook.remove()
        found = {name: gram.div_(tokens[name]) for name, gram in total.items()}
        # A third axis says that the weight lies the other way round, [in, out].
        return {name: gram if _usual(layers[name]) else gram[None] for name, gram in found.items()}

    def beside(self, shape: tuple[int, ...], known: Sequence[Tensor | None]) -> int:
        grams = [gram for gram in known if gram is not None]
        if len(grams) < len(known) or not grams:
            return 0
        values = (len(grams) + 4) * math.prod(shape) if grams[0].ndim == 3 else 0
        return 8 * (4 * grams[0].shape[-1] ** 2 + values)

    def measure(self, whole: Operands) -> _Solver | Tensor | None:
        grams = [whole.statistic(i) for i in range(len(whole))]
        known = [gram for gram in grams if gram is not None]
        if len(known) < len(whole) or len(whole.shape) != 2:
            return None
        turned = known[0].ndim == 3
        solver = _Solver([gram[0] if turned else gram for gram in known], whole.weights, self.settings.alpha)
        if not turned:
            return solver
        values = [whole.value(i).double().view(whole.shape).T for i in range(len(whole))]
        return solver(values).T.reshape(-1)

    def combine(self, piece: Operands, measured: _Solver | Tensor | None) -> Tensor:
        if isinstance(measured, torch.Tensor):
            return measured[piece.start : piece.stop].to(piece.dtype)
        if measured is None:
            values = [piece.value(i) for i in range(len(piece))]
            return _mean(values, normalized(piece.weights))
        values = [piece.value(i).double().view(-1, piece.width) for i in range(len(piece))]
        return measured(values).reshape(-1).to(piece.dtype)


@dataclass
class _Solver:
    """Rows [R, in] of every model → the merged rows, in float64."""

    grams: list[Tensor]
    weights: tuple[float, ...]
    alpha: float

    def __post_init__(self):
        self.weights = normalized(self.weights)
        total = torch.zeros_like(self.grams[0], dtype=torch.float64)
        for gram, weight in zip(self.grams, self.weights, strict=True):
            total.add_(gram, alpha=weight)
        diagonal = total.diagonal().clone()
        total.mul_(self.alpha).diagonal().copy_(diagonal)
        self._factor, info = torch.linalg.cholesky_ex(total)
        steps = self._factor.diagonal().square()
        self._noise = len(total) * torch.finfo(torch.float64).eps
        self._inverse = None
        if int(info) or float(steps.min()) <= self._noise * float(diagonal.max()):
            self._inverse = torch.linalg.pinv(total, rtol=self._noise, hermitian=True)

    def __call__(self, values: list[Tensor]) -> Tensor:
        mean = _mean(values, self.weights)
        right = torch.zeros_like(mean)
        for value, gram, weight in zip(values, self.grams, self.weights, strict=True):
            away = value - mean
            right.addmm_(away, gram, alpha=weight * self.alpha)
            right.add_(away * gram.diagonal(), alpha=weight * (1 - self.alpha))
        if self._inverse is not None:
            return mean + right @ self._inverse
        return mean + torch.cholesky_solve(right.T, self._factor).T


def _mean(values: list[Tensor], weights: tuple[float, ...]) -> Tensor:
    """The weighted mean, as changes against the first; the weights sum to 1."""
    first = values[0]
    out = torch.zeros_like(first)
    for value, weight in zip(values[1:], weights[1:], strict=True):
        out.add_(value - first, alpha=weight)
    return out.add_(first)


def _linear_layers(pair: Pair) -> dict[str, nn.Module]:
    """Linear layers by the name on disk of their weight, but for those whose weight is shared or made of pieces."""
    names, found = pair.base.names, {}
    for path, module in pair.model.named_modules():
        if not (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"):
            continue
        memory = f"{path}.weight"
        if memory in names.tied or memory in names.tied.values() or names.is_fused(memory):
            continue
        found[names.disk(memory)[0]] = module
    return found


def _usual(module: nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)
