"""Next-token likelihood of a decoder-only language model, on the tokens that the labels choose.

loss = −Σ_{i,t: y[i,t] ≠ −100} w[i, t] log p(y[i, t] | x[i, <t])    y: [B, T] token ids, −100 where nothing is scored
w[i, t] = 1 on the completion, `text_weight` on the text before it

The labels decide what is learnt: whole texts, completions only, or text and label of a classification task that is
tuned as text. A mean over the (weighted) tokens of the accumulated batch, not over texts. Log-softmax in float32, in
slices. A text is longer than its label, so that with equal weights the label is a small part of the loss; a smaller
text weight, as of the auxiliary objective of Radford et al. 2018 ("Improving Language Understanding by Generative
Pre-Training", equation 5: λ = 0.5 on the mean text loss), lets the label decide while the text's likelihood is learnt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from pairtune import method
from pairtune.errors import ConfigError
from pairtune.objectives import Loss, Objective
from pairtune.objectives.token_nll import next_tokens, summed_nll

if TYPE_CHECKING:
    from torch import Tensor

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
        text_weight: float = Field(
            1.0, ge=0, le=1, description="weight of a token of the text where a completion follows it"
        )

    settings: Settings

    def units(self, batch: dict[str, Any]) -> float:
        text, completion = self._parts(batch)
        return float((completion >= 0).sum() + self.settings.text_weight * (text >= 0).sum())

    def loss(self, pair: Pair, batch: dict[str, Any], out: Outputs) -> Loss:
        weights = {"text": self.settings.text_weight, "completion": 1.0}
        total = torch.zeros((), device=batch["labels"].device)
        parts: dict[str, Tensor] = {}
        for name, targets in zip(weights, self._parts(batch), strict=True):
            if weights[name] == 0 or not bool((targets >= 0).any()):
                continue
            own = torch.zeros((), device=total.device)
            for logits, weight in out.views:
                own = own + weight * summed_nll(logits[:, -targets.shape[1] :], targets)
            total = total + weights[name] * own
            parts[name] = own.detach()
        # The parts are worth a line of the log where they are weighted differently.
        return Loss(total, self.units(batch), parts if self.settings.text_weight != 1 else {})

    def _parts(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """[B, T] the next tokens of the text where a completion follows, and all others; −100 elsewhere."""
        targets = next_tokens(batch["labels"])
        if self.settings.text_weight == 1:
            return targets.new_full((1, 1), -100), targets
        if "target" not in batch:
            raise ConfigError(["objective.text_weight: packed texts do not say where their completions are"])
        completion = next_tokens(batch["target"].long())
        before = (completion != 1) & (batch["target"].any(-1, keepdim=True))
        return targets.masked_fill(~before, -100), targets.masked_fill(before, -100)
