"""Task vectors with small entries dropped more often than large ones, merged where their signs agree (DELLA).

Deep, Bhardwaj and Poria, "DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling",
arXiv 2406.11617: between TIES, which keeps the largest entries, and DARE, which drops at random, the chance to be kept
here rises with an entry's rank within its row.

    δ_i = W_i - W0;  r in [0, 1]: rank of |δ_i| in its row, 0 for the smallest
    p   = density - epsilon + 2 epsilon r,  m ~ Bernoulli(p)
    W   = W0 + λ sum_{i in A} w_i m δ_i / p / sum_{i in A} w_i     A: as in TIES, the models that agree on the sign

A tensor of one axis is one row. mergekit rescales by the ratio of norms instead of 1/p. The default density is ours:
the paper's was not checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, field_validator, model_validator

from pairtune import method
from pairtune.merging import Merge
from pairtune.merging.task_vectors import elected
from pairtune.merging.weights import each, shares

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.merging.engine.operands import Operands


class Della(Merge):
    """With `density` 1 nothing is dropped, whatever `epsilon` is."""

    needs = frozenset({"base"})
    unit = "row"
    random = True

    class Settings(method.Settings):
        density: float | list[float] = Field(0.5, description="mean share of a row that is kept; or one a model")
        epsilon: float = Field(0.15, ge=0, lt=0.5, description="by how much the chance rises and falls within a row")
        scale: float = Field(1.0, description="λ: by what the merged task vector is multiplied")
        normalize: bool = Field(True, description="divide by the sum of the weights that agree")
        seed: int = Field(0, description="of the random masks")
        _shares = field_validator("density")(shares)

        @model_validator(mode="after")
        def _within(self) -> Self:
            for density in self.density if isinstance(self.density, list) else [self.density]:
                if density < 1 and not self.epsilon < density < 1 - self.epsilon:
                    raise ValueError(f"density ± epsilon must lie between 0 and 1, not {density:g} ± {self.epsilon:g}")
            return self

    settings: Settings

    def combine(self, piece: Operands, measured: Any) -> Tensor:
        densities = each(self.settings.density, len(piece), "density")
        changes = (self._sampled(piece, i, density) for i, density in enumerate(densities))
        merged = elected(changes, piece.weights, self.settings.normalize)
        return piece.base().add_(merged, alpha=self.settings.scale)

    def _sampled(self, piece: Operands, i: int, density: float) -> Tensor:
        import torch

        change = piece.change(i)
        if density == 1 or not change.numel():
            return change
        rows = change.view(-1, piece.width)
        ranks = rows.abs().argsort(dim=1).argsort(dim=1).to(rows.dtype)
        chance = ranks.mul_(2 * self.settings.epsilon / max(piece.width - 1, 1)).add_(density - self.settings.epsilon)
        if piece.width == 1:
            chance.fill_(density)
        drawn = torch.rand(rows.shape, generator=piece.generator(i, self.settings.seed))
        return rows.div_(chance).mul_((chance - drawn).clamp_(min=0).sign_()).view(-1)
