"""Score an input by one minus the variant's highest class probability.

"A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks", arXiv 1610.02136: a
classifier is less sure of inputs of a kind that it has not seen.

    S(x) = 1 − max_k softmax(z)_k

z: logits [C] of the head; on a language model, log p(label | text) of the task's labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pairtune.ood import Detector, evidence

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.pair import Pair


class MSP(Detector):
    """One minus the maximum softmax probability."""

    needs: ClassVar[frozenset[str]] = frozenset({"classes"})

    def score(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        # In float64: 1 − p in float32 makes all that are surer than 1 − 6e-8 equal.
        return 1 - evidence.logits(pair, batch).double().softmax(-1).amax(-1)
