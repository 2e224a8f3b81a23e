"""Squared error, for one number an item.

loss = Σ_i Σ_v w_v · (z_v[i] − y[i])²        z_v: [B, 1] outputs of view v with weight w_v;  y: [B]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pairtune.errors import DataError
from pairtune.objectives import Loss, Objective

if TYPE_CHECKING:
    from pairtune.pair.outputs import Outputs
    from pairtune.pair.pair import Pair


class Regression(Objective):
    """Summed squared error; labels [B] of floats, in the data's own unit."""

    needs = frozenset({"labels"})
    unit = "item"
    kinds = frozenset({"regression"})

    def loss(self, pair: Pair, batch: dict[str, Any], out: Outputs) -> Loss:
        labels = batch["labels"].float().reshape(-1)
        total = torch.zeros((), device=labels.device)
        for logits, weight in out.views:
            if logits.numel() != labels.numel():
                raise DataError(
                    f"regression: {logits.numel()} outputs for {labels.numel()} labels; expected one an item"
                )
            total = total + weight * (logits.float().reshape(-1) - labels).square().sum()
        assert out.logits is not None
        error = (out.logits.detach().float().reshape(-1) - labels).abs().sum()
        return Loss(total, self.units(batch), {"absolute_error": error})
