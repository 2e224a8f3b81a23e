"""Task vectors with random entries dropped and the rest rescaled, summed (DARE).

Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch", arXiv
2311.03099: most entries of a task vector are redundant; dropping them at random, and rescaling the rest so that its
expectation stays, leaves fewer of them to collide when several are added.

    δ_i = W_i - W0,  m_i ~ Bernoulli(density) for every entry
    W   = W0 + λ sum_i w_i m_i δ_i / density

The masks depend on `seed`, the tensor's name and the model's place in the order, on nothing else. The default density
(a drop rate of 0.2) is that of the authors' merging scripts as remembered; it was not checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from pairtune import method
from pairtune.merging import Merge
from pairtune.merging.task_vectors import dropped, summed
from pairtune.merging.weights import each, shares

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.merging.engine.operands import Operands


class DareLinear(Merge):
    """The sum itself is that of task arithmetic."""

    needs = frozenset({"base"})
    random = True

    class Settings(method.Settings):
        density: float | list[float] = Field(0.8, description="share of each task vector that is kept; or one a model")
        scale: float = Field(1.0, description="λ: by what the sum of the task vectors is multiplied")
        normalize: bool = Field(False, description="divide by the sum of the weights")
        seed: int = Field(0, description="of the random masks")
        _shares = field_validator("density")(shares)

    settings: Settings

    def combine(self, piece: Operands, measured: Any) -> Tensor:
        densities = each(self.settings.density, len(piece), "density")
        changes = (dropped(piece, i, density, self.settings.seed) for i, density in enumerate(densities))
        merged = summed(changes, piece.weights, self.settings.normalize)
        return piece.base().add_(merged, alpha=self.settings.scale)
