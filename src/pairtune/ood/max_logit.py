"""Score an input by the variant's highest class logit, negated.

"Scaling Out-of-Distribution Detection for Real-World Settings", arXiv 1911.11132: with many classes a softmax spreads
its probability between near ones; the largest logit does not suffer from that.

    S(x) = −max_k z_k

z: logits [C] of the head; on a language model, log p(label | text) of the task's labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pairtune.ood import Detector, evidence

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.pair import Pair


class MaxLogit(Detector):
    """The highest class logit, negated."""

    needs: ClassVar[frozenset[str]] = frozenset({"classes"})

    def score(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        return -evidence.logits(pair, batch).amax(-1)
