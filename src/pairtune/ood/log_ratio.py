"""Score a text by log p(base) − log p(variant): what tuning made likelier is in distribution.

Paper: "Your Finetuned Large Language Model is Already a Powerful Out-of-distribution Detector", arXiv 2404.08679.

The base is a density of everything else, so the ratio of the two is the best test between them (Neyman-Pearson), and
the complexity and length of a text, which dominate a plain likelihood, cancel.

    S(x) = Σ_t [ log p_base(x_t | x_<t) − log p_variant(x_t | x_<t) ],   t = 2 … L        (sum)
    S(x) / (L − 1)                                                                          (token)

x: token ids [L], the start token included where the tokenizer adds one. A text of one token has the score 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pairtune import method
from pairtune.ood import Detector

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.pair import Pair


class LogRatio(Detector):
    """log p(base) − log p(variant), summed over the text or per token."""

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})

    class Settings(method.Settings):
        normalize: Literal["sum", "token"] = Field(
            "sum", description="sum over the text's tokens (the paper's main form) or mean per token"
        )

    def score(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        # Kept in the batch: the other form and whatever else scores it need not run the models again.
        if "log_ratio" not in batch:
            batch["log_ratio"] = pair.log_ratio(batch)
        ratio = batch["log_ratio"]
        return -(ratio.sum() if self.settings.normalize == "sum" else ratio.mean())  # type: ignore[attr-defined]
