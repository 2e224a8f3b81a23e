"""Directions taken out of the activations while tuning, and left there afterwards (concept ablation fine-tuning).

Casademunt et al., "Steering Out-of-Distribution Generalization with Concept Ablation Fine-Tuning", arXiv 2507.16795:
what is not there while a model is tuned, the tuning cannot lean on.

    h ← h − U Uᵀ h        h: [d] behind every block, in training passes alone; U: [d, k] orthonormal

Departure: the paper takes its directions from interpretability (principal components or features that a person chose);
here they come from a file (`pairtune scrub` writes one, side `write`). It is a baseline of the reproduction `grasp`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from pairtune import method
from pairtune.constraints import Constraint
from pairtune.constraints.directions import Directions, change_stream, existing

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.pair import Pair


class CAFT(Constraint):
    """Ablates directions of the residual stream in training passes. Raises as `change_stream` and `Directions.load`."""

    class Settings(method.Settings):
        directions: str = Field(description="file of directions, as pairtune scrub writes it")
        layers: Literal["all", "middle"] = Field("all", description="behind which blocks: all, or the middle third")

        @field_validator("directions")
        @classmethod
        def _is_there(cls, value: str) -> str:
            return existing(value)

    settings: Settings

    def prepare(self, pair: Pair) -> None:
        directions = Directions.load(self.settings.directions, pair.base).write

        def ablated(hidden: Tensor) -> Tensor:
            basis = directions.to(hidden.dtype)
            return hidden - (hidden @ basis) @ basis.T

        self._handles = change_stream(pair, "caft", self.settings.layers, ablated)

    def finish(self, pair: Pair) -> None:
        for handle in self._handles:
            handle.remove()
