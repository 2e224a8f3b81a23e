"""Binary cross-entropy for each class on its own, for any number of labels an item.

loss = Σ_i Σ_v w_v · mean_c BCE(z_v[i, c], y[i, c])      z_v: [B, C] logits of view v, weight w_v;  y: [B, C], 0 or 1

The mean over classes is taken within an item, so that learning rates carry over between label sets of different size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from pairtune.objectives import Loss, Objective

if TYPE_CHECKING:
    from pairtune.pair.outputs import Outputs
    from pairtune.pair.pair import Pair


class Multilabel(Objective):
    """Sum over items of the mean binary cross-entropy over classes; labels [B, C] of zeros and ones."""

    needs = frozenset({"labels"})
    unit = "item"
    kinds = frozenset({"multilabel"})
    rising = frozenset({"accuracy"})

    def loss(self, pair: Pair, batch: dict[str, Any], out: Outputs) -> Loss:
        labels = batch["labels"].float()
        total = torch.zeros((), device=labels.device)
        for logits, weight in out.views:
            each = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
            total = total + weight * each.mean(-1).sum()
        assert out.logits is not None
        # An item counts as right when every one of its classes is.
        correct = ((out.logits.detach() > 0) == (labels > 0.5)).all(-1).sum()
        return Loss(total, self.units(batch), {"accuracy": correct})
