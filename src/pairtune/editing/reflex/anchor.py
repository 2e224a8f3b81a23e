"""Verdict anchoring: which direction, behind which block and how strong, raises the right verdict's probability most.

    h_l ← h_l + α σ_l s_l        g = mean over validation of P_steered(v_gold | c) − P(v_gold | c)

α: ±1, ±2, ±5, ±10, ±15 standard deviations σ_l of the activations along s_l; positions: the verdict slot and on. The
gold verdicts are those of validation alone, and one choice serves all other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pairtune.generation.steering import steered
from pairtune.generation.vectors import SteeringVectors

if TYPE_CHECKING:
    from pairtune.editing.reflex.contrast import Fitted
    from pairtune.editing.reflex.reading import Reading

ALPHAS = (1.0, 2.0, 5.0, 10.0, 15.0)


@dataclass(frozen=True)
class Choice:
    """One direction behind one block. alpha: in σ, with its sign. gain: mean on the rows where it was chosen."""

    name: str
    block: int
    alpha: float
    gain: float

    def vector(self, fitted: Fitted) -> SteeringVectors:
        """α σ s as a vector of strength 1."""
        one = self.alpha * fitted.sigma[self.block] * fitted.directions[self.block]
        return SteeringVectors({self.block: one.float()}, source=self.name)


def probabilities(reading: Reading, rows: Sequence[Sequence[int]], vector: SteeringVectors | None) -> np.ndarray:
    """[N, V] verdicts' probabilities of the variant, steered or not."""
    with steered(reading.pair, vector) if vector else nullcontext() as steering:
        return reading.probabilities(rows, steering)


def anchor(
    reading: Reading,
    rows: Sequence[Sequence[int]],
    targets: np.ndarray,
    fitted: Fitted,
    alphas: Sequence[float] = ALPHAS,
    step: Callable[[str], None] = lambda _: None,
) -> list[Choice]:
    """Every candidate of one direction with its gain on validation, the best first.

    Args:
        rows, targets: validation.
        step: told of each block before it is tried.
    """
    at = np.arange(len(targets))
    before = probabilities(reading, rows, None)[at, targets]
    found = []
    for block in fitted.directions:
        step(f"{fitted.name.upper()} behind block {block}")
        for alpha in (sign * size for size in alphas for sign in (1, -1)):
            choice = Choice(fitted.name, block, alpha, 0.0)
            after = probabilities(reading, rows, choice.vector(fitted))[at, targets]
            found.append(Choice(fitted.name, block, alpha, float((after - before).mean())))
    return sorted(found, key=lambda one: -one.gain)
