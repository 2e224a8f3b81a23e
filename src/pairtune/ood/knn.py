"""Score an input by the distance to its k-th nearest neighbour among the ID training data.

"Out-of-Distribution Detection with Deep Nearest Neighbors", arXiv 2204.06507: no shape of the features' distribution is
assumed.

    S(x) = | f/|f| − g_(k) |,      g_(k): the k-th nearest of the training vectors f_i/|f_i|

f: pooled hidden state [d] of the variant. All training vectors are kept (4 d bytes each).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from pairtune.errors import InputError
from pairtune.ood import Detector, evidence
from pairtune.ood.gaussians import FeatureSettings

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.pair import Pair


class KNN(Detector):
    """Distance to the k-th nearest training vector, all of unit length."""

    class Settings(FeatureSettings):
        k: int = Field(10, ge=1, description="which neighbour; at most the number of training rows")

    settings: KNN.Settings

    def must_fit(self, pair: Pair) -> bool:
        return True

    def fit(self, pair: Pair, batches: Iterable[dict[str, Any]]) -> None:
        bank = torch.cat([self._unit(pair, batch).cpu() for batch in batches])
        if len(bank) < self.settings.k:
            raise InputError(
                f"knn: k is {self.settings.k}, and there are {len(bank)} training rows; lower --detector.knn.k"
            )
        self.fitted = {"bank": bank}

    def score(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        own = self._unit(pair, batch)
        bank = self.fitted["bank"].to(own.device)
        # 2 − 2 cos, in float64: among near neighbours float32 would cancel.
        squared = 2 - 2 * (own.double() @ bank.double().T)
        return squared.kthvalue(self.settings.k, dim=-1).values.clamp(min=0).sqrt()

    def _unit(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        found = evidence.pooled(pair, batch, self.settings.layer, self.settings.pooling)
        return found / found.norm(dim=-1, keepdim=True).clamp(min=1e-12)
