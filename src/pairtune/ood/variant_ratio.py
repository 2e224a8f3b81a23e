"""Score a text by log p(other variant) − log p(this variant): two tunings of one base against each other.

Third spam detector of "Your Finetuned Large Language Model is Already a Powerful Out-of-distribution Detector", arXiv
2404.08679: where examples of what is outside exist, a model tuned on them takes the base's place in the ratio.

    S(x) = Σ_t [ log p_other(x_t | x_<t) − log p_this(x_t | x_<t) ],   t = 2 … L        (sum)
    S(x) / (L − 1)                                                                       (token)

The other pair must stand on the same base and tokenizer; the base's weights are in memory once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field

from pairtune import method
from pairtune.errors import BaseMismatch, MissingView
from pairtune.ood import Detector, evidence
from pairtune.pair.views import log_probs

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.pair import Pair


class VariantRatio(Detector):
    """log p(other) − log p(this), summed over the text or per token."""

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})

    class Settings(method.Settings):
        other: str = Field(description="the folder of the pair that was tuned on what is outside")
        normalize: Literal["sum", "token"] = Field("sum", description="sum over the text's tokens or mean per token")

    settings: VariantRatio.Settings

    def __init__(self, settings: method.Settings | None = None, **values: Any):
        super().__init__(settings, **values)
        self._other: Pair | None = None

    def use(self, other: Pair, pair: Pair) -> None:
        """Take a pair that is loaded already as the other one. Raises `BaseMismatch` where the bases differ."""
        difference = pair.base.fingerprint.first_difference(other.base.fingerprint)
        if difference is not None:
            raise BaseMismatch(f"variant-ratio: {other.base.source} is not the base {pair.base.source}: {difference}")
        if pair.base.fingerprint.tokenizer != other.base.fingerprint.tokenizer:
            raise BaseMismatch("variant-ratio: the two pairs have different tokenizers, so that ids mean other things")
        if "tokens" not in other.views:
            raise MissingView("variant-ratio: the other pair has no language-model head; take two pairs with one")
        self._other = other

    def score(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        return evidence.row_sum(self._values(pair, batch)[1])

    def contributions(self, pair: Pair, batch: dict[str, Any]) -> tuple[str, Tensor]:
        return self._values(pair, batch)

    def _values(self, pair: Pair, batch: dict[str, Any]) -> tuple[str, Tensor]:
        if self._other is None:
            from pairtune.pair.pair import Pair
            from pairtune.pair.twin import twin

            self.use(Pair.load(self.settings.other, twin(pair.base)), pair)
        assert self._other is not None
        this, mask = evidence.side_log_probs(pair, batch, "question")
        other = torch.where(mask, log_probs(self._other, batch)[0], 0.0)
        count = mask.sum(-1, keepdim=True).clamp(min=1) if self.settings.normalize == "token" else 1
        return "question", (other.double() - this.double()) / count
