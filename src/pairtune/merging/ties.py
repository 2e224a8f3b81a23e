"""Task vectors trimmed to their largest entries, with conflicts of sign decided by election (TIES).

Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", arXiv 2306.01708: most of a task vector's
entries can go without loss, and those of several tasks often pull in opposite directions. Each is trimmed, for every
entry a sign is elected, and only the models that agree with it are averaged.

    δ_i = W_i - W0, kept where |δ_i| is among the largest `density` of the tensor, else 0
    γ   = sign(sum_i w_i δ_i)                       + where the sum is 0
    W   = W0 + λ sum_{i in A} w_i δ_i / sum_{i in A} w_i        A: the models with sign(w_i δ_i) = γ, for each entry

Departure: the paper trims over all tensors of a model together, this (as mergekit does) over each tensor, which needs
no more memory than the largest of them. Entries as large as the last one that is kept are kept too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from pairtune import method
from pairtune.merging import Merge
from pairtune.merging.task_vectors import at_least, elected, magnitude_at
from pairtune.merging.weights import each, shares

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.merging.engine.operands import Operands


class Ties(Merge):
    """The paper's densities are around 0.2; with 1 nothing is trimmed."""

    needs = frozenset({"base"})

    class Settings(method.Settings):
        density: float | list[float] = Field(0.2, description="share of each task vector that is kept; or one a model")
        scale: float = Field(1.0, description="λ: by what the merged task vector is multiplied")
        normalize: bool = Field(True, description="divide by the sum of the weights that agree")
        _shares = field_validator("density")(shares)

    settings: Settings

    def measure(self, whole: Operands) -> list[float]:
        """For each model, the smallest |δ| that is kept."""
        count = whole.stop - whole.start
        found = []
        for i, density in enumerate(each(self.settings.density, len(whole), "density")):
            kept = max(1, int(density * count))
            found.append(magnitude_at(whole, i, count - kept) if kept < count else 0.0)
        return found

    def combine(self, piece: Operands, measured: list[float]) -> Tensor:
        changes = (at_least(piece.change(i), smallest) for i, smallest in enumerate(measured))
        merged = elected(changes, piece.weights, self.settings.normalize)
        return piece.base().add_(merged, alpha=self.settings.scale)
