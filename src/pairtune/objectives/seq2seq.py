"""Likelihood of the target tokens of an encoder-decoder model.

loss = −Σ_{i,t: y[i,t] ≠ −100} log p(y[i, t] | source_i, y[i, <t])        y: [B, T'] target ids, −100 where padded

The decoder reads the targets shifted by one, so that its position t predicts y[t]. A mean over target tokens.
Classification on such a base is tuned as text: the target is the label's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pairtune.objectives import Loss, Objective
from pairtune.objectives.token_nll import summed_nll

if TYPE_CHECKING:
    from pairtune.pair.outputs import Outputs
    from pairtune.pair.pair import Pair


class Seq2Seq(Objective):
    """Summed negative log-likelihood of the targets (nats); labels [B, T'], aligned with the decoder's outputs."""

    needs = frozenset({"tokens"})
    unit = "token"
    kinds = frozenset({"seq2seq", "classification"})
    families = frozenset({"seq2seq"})

    def units(self, batch: dict[str, Any]) -> float:
        return float((batch["labels"] >= 0).sum())

    def loss(self, pair: Pair, batch: dict[str, Any], out: Outputs) -> Loss:
        labels = batch["labels"]
        total = torch.zeros((), device=labels.device)
        for logits, weight in out.views:
            total = total + weight * summed_nll(logits, labels)
        return Loss(total, self.units(batch))
