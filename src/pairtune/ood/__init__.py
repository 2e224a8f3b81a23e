"""Is this input one that the variant was tuned for? One file a detector.

Every detector has one sign: a higher score means further from the tuning distribution.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from pairtune.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.pair import Pair


class Detector(Method):
    """A score of how far an input lies from what the variant was tuned on."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def fit(self, pair: Pair, batches: Iterable[dict[str, Any]]) -> None:
        """Learn what the detector needs from ID data; most need nothing."""

    def score(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        """[B] float32, higher = more out of distribution."""
        raise NotImplementedError
