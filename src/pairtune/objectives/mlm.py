"""Likelihood of hidden tokens under an encoder's own language-model head (masked language modelling).

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", arXiv 1810.04805: some tokens of a text are
hidden, and the encoder says what they were. On plain text in another language or of another domain it adapts the
encoder without labels.

    loss = −Σ_{i,t: y[i,t] ≠ −100} log p(y[i, t] | x̃[i])        x̃: [B, T] the text with tokens hidden; y: [B, T]

A mean over the hidden tokens of a step. They are drawn anew in every pass (`data/masking.py`); on the validation split
they are the same at every validation. The head's output matrix is not tuned, also where it is tied to the embeddings:
it is the base's (`pair/heads.py`). A base without such a head gets a new one, which belongs to the delta.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from pairtune import method
from pairtune.objectives import Loss, Objective
from pairtune.objectives.token_nll import summed_nll

if TYPE_CHECKING:
    from pairtune.pair.outputs import Outputs
    from pairtune.pair.pair import Pair


class MaskedLanguageModel(Objective):
    """Summed negative log-likelihood (nats) of hidden tokens; labels [B, T] in place, −100 where nothing is hidden."""

    needs = frozenset({"masked"})
    unit = "token"
    kinds = frozenset({"lm"})
    families = frozenset({"encoder"})

    class Settings(method.Settings):
        masked: float = Field(0.15, gt=0, lt=1, description="share of the tokens that are hidden and to be said")

    settings: Settings

    def units(self, batch: dict[str, Any]) -> float:
        return float((batch["labels"] >= 0).sum())

    def loss(self, pair: Pair, batch: dict[str, Any], out: Outputs) -> Loss:
        total = torch.zeros((), device=batch["labels"].device)
        for logits, weight in out.views:
            total = total + weight * summed_nll(logits, batch["labels"])
        return Loss(total, self.units(batch))
