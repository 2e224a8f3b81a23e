"""Score a text by its plain negative log-likelihood under the variant, or under the base.

The baseline that the ratio is measured against in "Your Finetuned Large Language Model is Already a Powerful
Out-of-distribution Detector", arXiv 2404.08679 (there LH and NLH). It is dominated by a text's complexity and length,
so that far texts that are short and plain may count as closer than ID ones (Nalisnick et al., arXiv 1810.09136).

    −Σ_t log p(x_t | x_<t),   t = 2 … L        (sum)
    the same / (L − 1)                           (token: the log of the perplexity)

x: token ids [L]. Under the base it shows whether a ratio is more than the base model alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pairtune import method
from pairtune.ood import Detector, evidence

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.pair import Pair


class Likelihood(Detector):
    """−log p, summed over the text or per token."""

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})

    class Settings(method.Settings):
        normalize: Literal["sum", "token"] = Field("sum", description="sum over the text's tokens or mean per token")
        side: Literal["variant", "base"] = Field("variant", description="whose likelihood")
        part: Literal["question", "answer", "both", "answer-given-question"] = Field(
            "question", description="what is scored; a plain text is a question (see log-ratio)"
        )

    settings: Likelihood.Settings

    @property
    def answers(self) -> bool:
        return self.settings.part != "question"

    def score(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        values, mask = evidence.side_log_probs(pair, batch, self.settings.part, self.settings.side)
        return -evidence.row_sum(values) / self._scale(mask)

    def contributions(self, pair: Pair, batch: dict[str, Any]) -> tuple[str, Tensor]:
        values, mask = evidence.side_log_probs(pair, batch, self.settings.part, self.settings.side)
        return evidence.HOLDER[self.settings.part], -values.double() / self._scale(mask).unsqueeze(-1)

    def _scale(self, mask: Tensor) -> Tensor:
        return mask.sum(-1).clamp(min=1) if self.settings.normalize == "token" else mask.new_ones(len(mask)).float()
