"""Score a text by log p(base) − log p(variant): what tuning made likelier is in distribution.

Paper: "Your Finetuned Large Language Model is Already a Powerful Out-of-distribution Detector", arXiv 2404.08679.

The base is a density of everything else, so the ratio of the two is the best test between them (Neyman-Pearson), and
the complexity and length of a text, which dominate a plain likelihood, cancel.

    S(x) = Σ_t [ log p_base(x_t | x_<t) − log p_variant(x_t | x_<t) ],   t = 2 … L        (sum)
    S(x) / (L − 1)                                                                          (token)
    S(x) / −Σ_t log p_base(x_t | x_<t)                                                      (base)

x: token ids [L], the start token included where the tokenizer adds one. A text of one token has the score 0. The form
divided by the base's own surprise is not in the paper.

For a question q and an answer a, `part` says what x is: S_q (a plain text is a question), S_a (the answer as a text of
its own), S_qa (both, in one row) and S_a|q = S_qa − S_q (the answer's tokens in that row). Without a given answer, it
is what the variant itself writes greedily. Template tokens (start and end token, the separator, a chat template's
words) are context and never summed; a row that is too long loses the beginning of its question, nothing of its answer.

An encoder-decoder gives no probability to its source, so that it has S_a|q only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field

from pairtune import method
from pairtune.ood import Detector, evidence

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.pair import Pair


class LogRatio(Detector):
    """log p(base) − log p(variant), summed over the text or per token."""

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})

    class Settings(method.Settings):
        normalize: Literal["sum", "token", "base"] = Field(
            "sum",
            description="sum over the tokens (the paper's main form), mean per token, or share of the base's surprise",
        )
        part: Literal["question", "answer", "both", "answer-given-question"] = Field(
            "question", description="what is scored; a plain text is a question"
        )

    settings: LogRatio.Settings

    @property
    def answers(self) -> bool:
        return self.settings.part != "question"

    def score(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        ratio = evidence.log_ratio(pair, batch, self.settings.part)
        return -(ratio.sum() / self._scale(ratio))

    def contributions(self, pair: Pair, batch: dict[str, Any]) -> tuple[str, Tensor]:
        ratio = evidence.log_ratio(pair, batch, self.settings.part)
        return evidence.HOLDER[self.settings.part], -ratio.values.double() / self._scale(ratio).unsqueeze(-1)

    def _scale(self, ratio: Any) -> Tensor:
        """[B] what the sum is divided by."""
        if self.settings.normalize == "token":
            return ratio.count().clamp(min=1)
        if self.settings.normalize == "base":
            surprise = -evidence.row_sum(torch.where(ratio.mask, ratio.base, 0.0))
            return surprise.clamp(min=torch.finfo(torch.float32).tiny)
        return torch.ones_like(ratio.sum())
