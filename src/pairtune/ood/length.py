"""Score a text by its number of tokens alone: the control that every other detector must beat.

Length separates many pairs of data sets by itself, so that a detector's AUROC means little without this row beside it.
The sign is fixed, longer = further out; an AUROC below one half says that the out-of-distribution texts are shorter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pairtune.ood import Detector

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.pair import Pair


class Length(Detector):
    """The number of real tokens."""

    def score(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        return batch["attention_mask"].sum(-1).float()

    def contributions(self, pair: Pair, batch: dict[str, Any]) -> tuple[str, Tensor]:
        return "question", batch["attention_mask"].double()
