"""Task vectors without their largest and their smallest entries, summed (Model Breadcrumbs).

Davari and Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks", arXiv 2312.06795: the
largest changes are outliers that disturb the other tasks, the smallest are noise; what lies between is a trail of
crumbs that can be added up.

    δ_i = W_i - W0, its entries ordered by |δ_i| in each tensor
    W   = W0 + λ sum_i w_i m_i δ_i        m_i: 0 for the largest `gamma` and for all but the `density` below them

Where `density` + `gamma` exceed 1, fewer outliers are removed. The defaults are near those of the paper as remembered;
they were not checked against it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from pairtune import method
from pairtune.merging import Merge
from pairtune.merging.task_vectors import at_least, at_most, magnitude_at, summed
from pairtune.merging.weights import each, shares

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.merging.engine.operands import Operands


class Breadcrumbs(Merge):
    """Entries as large as the last one that is kept, on either side, are kept too."""

    needs = frozenset({"base"})

    class Settings(method.Settings):
        density: float | list[float] = Field(0.1, description="share of each task vector that is kept; or one a model")
        gamma: float = Field(0.01, ge=0, lt=1, description="share of the largest entries that is removed")
        scale: float = Field(1.0, description="λ: by what the sum of the task vectors is multiplied")
        normalize: bool = Field(False, description="divide by the sum of the weights")
        _shares = field_validator("density")(shares)

    settings: Settings

    def measure(self, whole: Operands) -> list[tuple[float, float]]:
        """For each model, the smallest and the largest |δ| that are kept."""
        count = whole.stop - whole.start
        found = []
        for i, density in enumerate(each(self.settings.density, len(whole), "density")):
            kept = max(1, int(density * count))
            if kept >= count:
                found.append((0.0, float("inf")))
                continue
            first = max(0, count - kept - int(self.settings.gamma * count))
            found.append((magnitude_at(whole, i, first), magnitude_at(whole, i, first + kept - 1)))
        return found

    def combine(self, piece: Operands, measured: list[tuple[float, float]]) -> Tensor:
        changes = (at_least(at_most(piece.change(i), high), low) for i, (low, high) in enumerate(measured))
        merged = summed(changes, piece.weights, self.settings.normalize)
        return piece.base().add_(merged, alpha=self.settings.scale)
