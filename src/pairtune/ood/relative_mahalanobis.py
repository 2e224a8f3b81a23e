"""Score an input by its Mahalanobis distance to the nearest class, less that to the training data as a whole.

"A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection", arXiv 2106.09022: directions that vary in all
data alike say nothing about classes; a background Gaussian takes them away. It is itself a log-likelihood ratio.

    S(x) = min_k M(x; μ_k, Σ) − M(x; μ_0, Σ_0),      M(x; μ, Σ) = (f − μ)ᵀ Σ⁻¹ (f − μ)

f: pooled hidden state [d] of the variant; Σ shared within classes; μ_0, Σ_0 of all training vectors. It needs at least
two classes: with one it is 0 everywhere. Departure: a small ridge on both covariances.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pairtune.errors import InputError
from pairtune.ood import Detector, evidence
from pairtune.ood.gaussians import FeatureSettings, Moments, squared_distances, whitener

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.pair import Pair


class RelativeMahalanobis(Detector):
    """Distance to the nearest class less the distance to all data."""

    class Settings(FeatureSettings):
        ridge: float = Field(1e-6, gt=0, description="added to the covariances' diagonals, in units of mean variance")

    settings: RelativeMahalanobis.Settings

    def must_fit(self, pair: Pair) -> bool:
        return True

    def fit(self, pair: Pair, batches: Iterable[dict[str, Any]]) -> None:
        moments = Moments()
        for batch in batches:
            moments.add(evidence.pooled(pair, batch, self.settings.layer, self.settings.pooling), batch["classes"])
        if len(moments.counts) < 2:
            raise InputError("relative-mahalanobis needs training data with at least two classes; mahalanobis does not")
        self.fitted = {
            "means": moments.means(),
            "white": whitener(moments.within(), self.settings.ridge),
            "mean": moments.mean()[None],
            "background": whitener(moments.total(), self.settings.ridge),
        }

    def score(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        features = evidence.pooled(pair, batch, self.settings.layer, self.settings.pooling)
        own = {name: tensor.to(features.device) for name, tensor in self.fitted.items()}
        nearest = squared_distances(features, own["means"], own["white"]).amin(-1)
        return nearest - squared_distances(features, own["mean"], own["background"])[:, 0]
