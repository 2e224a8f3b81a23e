"""Next-token likelihood of a decoder-only language model, on the tokens that the labels choose.

loss = −Σ_{i,t: y[i,t] ≠ −100} log p(y[i, t] | x[i, <t])        y: [B, T] token ids, −100 where nothing is scored

The labels decide what is learnt: whole texts, completions only, or text and label of a classification task that is
tuned as text. A mean over the tokens of the accumulated batch, not over texts. Log-softmax in float32, in slices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from pairtune import method
from pairtune.objectives import Loss, Objective
from pairtune.objectives.token_nll import next_tokens, summed_nll

if TYPE_CHECKING:
    from pairtune.pair.outputs import Outputs
    from pairtune.pair.pair import Pair


class LanguageModel(Objective):
    """Summed negative log-likelihood (nats); labels [B, T], aligned with `input_ids`."""

    needs = frozenset({"tokens"})
    unit = "token"
    kinds = frozenset({"lm", "classification"})
    families = frozenset({"causal"})

    class Settings(method.Settings):
        completion_only: bool | None = Field(
            None, description="score completions alone; by default yes, but for classification text and label"
        )

    settings: Settings

    def units(self, batch: dict[str, Any]) -> float:
        return float((batch["labels"][:, 1:] >= 0).sum())

    def loss(self, pair: Pair, batch: dict[str, Any], out: Outputs) -> Loss:
        targets = next_tokens(batch["labels"])
        total = torch.zeros((), device=targets.device)
        for logits, weight in out.views:
            total = total + weight * summed_nll(logits[:, -targets.shape[1] :], targets)
        return Loss(total, self.units(batch))
