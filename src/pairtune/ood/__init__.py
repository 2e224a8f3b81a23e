"""Is this input one that the variant was tuned for? One file a detector.

Every detector has one sign: a higher score means further from the tuning distribution.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from pairtune.method import Method, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.pair import Pair


class Detector(Method):
    """A score of how far an input lies from what the variant was tuned on.

    A batch holds the inputs' texts: `input_ids`, `attention_mask` [B, T] and what else the model takes; `classes` [B],
    the class indices of labelled rows (−1 without), while fitting. Where an answer is wanted, `with_answer` and
    `answer` hold two further batches: question and answer in one row, and the answer alone. What several detectors need
    of a batch (log ratios, logits, pooled states) is computed once and kept in it; see `evidence.py`.

    Attributes:
        needs: "tokens" (a language-model head), "classes" (a classification head, or a language model tuned on labels),
            "linear head" (a classification head that ends in one linear layer).
        fitted: what `fit` has learnt, tensors by name: all that a saved detector consists of.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, settings: Settings | None = None, **values: Any):
        super().__init__(settings, **values)
        self.fitted: dict[str, Tensor] = {}

    @property
    def answers(self) -> bool:
        """Whether it reads an answer: a given one, or what the variant writes greedily."""
        return False

    def must_fit(self, pair: Pair) -> bool:
        """Whether `fit` must come before `score` on this pair."""
        return False

    def fit(self, pair: Pair, batches: Iterable[dict[str, Any]]) -> None:
        """Learn what the detector needs from batches of ID training data, which are read once."""

    def score(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        """[B] float32, higher = more out of distribution."""
        raise NotImplementedError

    def contributions(self, pair: Pair, batch: dict[str, Any]) -> tuple[str, Tensor] | None:
        """What each token adds to the score: the batch that holds the tokens ("question", "with_answer" or "answer")
        and [B, T] contributions, whose sum over a row is its score; None where the score is no sum over tokens."""
        return None
