"""The difference of the two sides' mean activations.

Rimsky et al., "Steering Llama 2 via Contrastive Activation Addition", arXiv 2312.06681: over pairs that differ in one
thing only, everything else cancels in the mean.

    s = (mean h⁺ − mean h⁻) / |mean h⁺ − mean h⁻|        h⁺: [n, d], h⁻: [m, d]

Departure: the paper keeps the difference's own length and a multiplier; here s has length 1 and its strength is counted
in standard deviations of the activations along s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairtune.generation import Direction, unit

if TYPE_CHECKING:
    from torch import Tensor


class MeanDifference(Direction):
    """See the module's docstring."""

    def fit(self, present: Tensor, absent: Tensor) -> Tensor:
        return unit(present.double().mean(0) - absent.double().mean(0))
