"""Score an input by its Mahalanobis distance to the nearest class of the ID training data.

"A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", arXiv 1807.03888: the
features of each class are taken for a Gaussian, all with one covariance.

    S(x) = min_k (f − μ_k)ᵀ Σ⁻¹ (f − μ_k),      Σ = 1/N Σ_k Σ_{i in k} (f_i − μ_k)(f_i − μ_k)ᵀ

f: pooled hidden state [d] of the variant. Training data without classes are one class. Departures: one layer instead of
a weighted sum over layers, whose weights would need OOD data; no input perturbation; a small ridge on Σ.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pairtune.ood import Detector, evidence
from pairtune.ood.gaussians import FeatureSettings, Moments, squared_distances, whitener

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.pair import Pair


class Mahalanobis(Detector):
    """Distance to the nearest class mean under a shared covariance."""

    class Settings(FeatureSettings):
        ridge: float = Field(1e-6, gt=0, description="added to the covariance's diagonal, in units of mean variance")

    settings: Mahalanobis.Settings

    def must_fit(self, pair: Pair) -> bool:
        return True

    def fit(self, pair: Pair, batches: Iterable[dict[str, Any]]) -> None:
        moments = Moments()
        for batch in batches:
            moments.add(evidence.pooled(pair, batch, self.settings.layer, self.settings.pooling), batch["classes"])
        self.fitted = {"means": moments.means(), "white": whitener(moments.within(), self.settings.ridge)}

    def score(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        features = evidence.pooled(pair, batch, self.settings.layer, self.settings.pooling)
        means, white = (self.fitted[name].to(features.device) for name in ("means", "white"))
        return squared_distances(features, means, white).amin(-1)
