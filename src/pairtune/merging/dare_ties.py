"""Task vectors with random entries dropped and the rest rescaled, merged where their signs agree (DARE with TIES).

Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch", arXiv
2311.03099: DARE prepares the task vectors and another method merges them; here TIES (arXiv 2306.01708) does, with
DARE's random dropping in the place of its trimming.

    δ_i = m_i (W_i - W0) / density,  m_i ~ Bernoulli(density) for every entry
    γ   = sign(sum_i w_i δ_i)
    W   = W0 + λ sum_{i in A} w_i δ_i        A: the models with sign(w_i δ_i) = γ, for each entry

With `normalize` the sum is divided by that of the w_i in A, as TIES does; off by default, as in mergekit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from pairtune import method
from pairtune.merging import Merge
from pairtune.merging.task_vectors import dropped, elected
from pairtune.merging.weights import each, shares

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.merging.engine.operands import Operands


class DareTies(Merge):
    """The masks are those of `dare-linear` with the same seed."""

    needs = frozenset({"base"})
    random = True

    class Settings(method.Settings):
        density: float | list[float] = Field(0.8, description="share of each task vector that is kept; or one a model")
        scale: float = Field(1.0, description="λ: by what the merged task vector is multiplied")
        normalize: bool = Field(False, description="divide by the sum of the weights that agree")
        seed: int = Field(0, description="of the random masks")
        _shares = field_validator("density")(shares)

    settings: Settings

    def combine(self, piece: Operands, measured: Any) -> Tensor:
        densities = each(self.settings.density, len(piece), "density")
        changes = (dropped(piece, i, density, self.settings.seed) for i, density in enumerate(densities))
        merged = elected(changes, piece.weights, self.settings.normalize)
        return piece.base().add_(merged, alpha=self.settings.scale)
