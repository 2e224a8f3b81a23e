"""Score an input by how much surer of its own label the variant is than the base: the log ratio on labels.

The analogue, for models that give probabilities to labels and not to texts, of the answer's score S_a|q in "Your
Finetuned Large Language Model is Already a Powerful Out-of-distribution Detector", arXiv 2404.08679; the paper itself
scores texts only.

    S(x) = log p_base(y* | x) − log p_variant(y* | x),   y* = argmax_y p_variant(y | x)           (own)
    S(x) = Σ_y p_variant(y | x) [ log p_variant(y | x) − log p_base(y | x) ]                       (distribution)

p(y | x) over the C classes: the head's softmax, or on a language model log p(label | text) normalised over the labels.
A new head belongs to the delta, so that the base has none: its side is then "base + linear probe", a logistic
regression on the base's pooled last block, fitted on ID training data. Nothing is compared with a random head.

The two forms rest on opposite thoughts. own: tuning makes the variant sure where it has learnt; where it is no surer
than the base, the input is outside. distribution: a probe has learnt the same data as the variant; inside both say the
same, outside they part. So `own` suits a base with labels of its own, `distribution` a probe; neither is the paper's.
Measured with a probe (zoo:minilm, LoRA, demo:helpdesk; out_of_scope and shifted): AUROC 0.24 and 0.41 for `own`, which
is worse than chance, 0.76 and 0.59 for `distribution`; mahalanobis reaches 0.97 and 0.83 there. On another set
(BANKING77, held-out intents, `score PAIR --fit banking77 --choose`, a tuned head alone, which is nearly the probe) both
are worse than chance: 0.34 and 0.30, 0.19 and 0.17; relative-mahalanobis has 0.90. Without a base that answers by
itself, take that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field

from pairtune import method
from pairtune.errors import InputError
from pairtune.ood import Detector, evidence
from pairtune.pair.linear_probe import LinearProbe, log_probs

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.pair import Pair


class LabelRatio(Detector):
    """log p(base) against log p(variant) over the labels."""

    needs: ClassVar[frozenset[str]] = frozenset({"classes"})

    class Settings(method.Settings):
        form: Literal["own", "distribution"] = Field(
            "own", description="the variant's own label, or the divergence of the two distributions over labels"
        )

    settings: LabelRatio.Settings

    def must_fit(self, pair: Pair) -> bool:
        return pair.base.family == "encoder" and bool(pair.base.new_names)

    def fit(self, pair: Pair, batches: Iterable[dict[str, Any]]) -> None:
        if not self.must_fit(pair):
            return
        features, classes, count = [], [], 0
        for batch in batches:
            known = batch["classes"] >= 0
            features.append(_base_features(pair, batch)[known].cpu())
            classes.append(batch["classes"][known].cpu())
            count = evidence.logits(pair, batch).shape[1]
        if not features or not sum(map(len, features)):
            raise InputError("label-ratio: the training data have no labels to fit the base's linear probe on")
        probe = LinearProbe(torch.cat(features).numpy(), torch.cat(classes).numpy(), count)
        self.fitted = {name: torch.as_tensor(values) for name, values in probe.state.items()}

    def score(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        variant = evidence.logits(pair, batch).log_softmax(-1)
        base = self._base(pair, batch, variant)
        if self.settings.form == "distribution":
            return (variant.exp() * (variant - base)).sum(-1)
        best = variant.argmax(-1, keepdim=True)
        return (base.gather(-1, best) - variant.gather(-1, best)).squeeze(-1)

    def _base(self, pair: Pair, batch: dict[str, Any], variant: Tensor) -> Tensor:
        """[B, C] log-probabilities of the base's side."""
        if not self.must_fit(pair):
            with pair.off():
                return evidence.side_logits(pair, batch).log_softmax(-1)
        state = {name: tensor.numpy() for name, tensor in self.fitted.items()}
        found = log_probs(_base_features(pair, batch).cpu().numpy(), state, variant.shape[1])
        return torch.from_numpy(found).to(variant)


def _base_features(pair: Pair, batch: dict[str, Any]) -> Tensor:
    with pair.off():
        return evidence.pooled(pair, batch, -1, "mean")
