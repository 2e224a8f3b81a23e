"""Cross-entropy over classes, for one label an item.

loss = Σ_i Σ_v w_v · CE(z_v[i], y[i])        z_v: [B, C] logits of view v with weight w_v;  y: [B] class indices

Every view of the outputs is fitted, so that an ensemble of heads needs no loss of its own. The weights of the views are
not normalised: what a tuner gives is what is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch.nn import functional as F

from pairtune import method
from pairtune.objectives import Loss, Objective

if TYPE_CHECKING:
    from pairtune.pair.outputs import Outputs
    from pairtune.pair.pair import Pair


class Classification(Objective):
    """Multinomial cross-entropy; labels [B] of class indices, −100 for an item that is not scored."""

    needs = frozenset({"labels"})
    unit = "item"
    kinds = frozenset({"classification"})
    rising = frozenset({"accuracy"})

    class Settings(method.Settings):
        label_smoothing: float = Field(
            0.0, ge=0, lt=1, description="share of the probability that is spread evenly over all classes"
        )

    settings: Settings

    def units(self, batch: dict[str, Any]) -> float:
        return float((batch["labels"] >= 0).sum())

    def loss(self, pair: Pair, batch: dict[str, Any], out: Outputs) -> Loss:
        labels = batch["labels"]
        smoothing = self.settings.label_smoothing
        total = torch.zeros((), device=labels.device)
        for logits, weight in out.views:
            total = total + weight * F.cross_entropy(logits.float(), labels, reduction="sum", label_smoothing=smoothing)
        assert out.logits is not None
        correct = (out.logits.detach().argmax(-1) == labels).sum()
        return Loss(total, self.units(batch), {"accuracy": correct})
