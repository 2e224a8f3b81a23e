"""A direction added to the activations while tuning, so that the weights need not learn it (preventative steering).

Chen et al., "Persona Vectors: Monitoring and Controlling Character Traits in Language Models", arXiv 2507.21509: a
model that is pushed towards a trait while it is tuned on data which ask for the trait has nothing left to learn there.

    h ← h + strength · |h| · u        h: [d] behind every block, in training passes alone; u: the first direction

Departures: the paper's vector is a difference of means with and without the trait, added at one layer with a
coefficient found by trial; here it comes from a file (`pairtune scrub` writes one, side `write`, with the sign in which
the first delta moves the stream), behind all chosen blocks, in units of the activation's own length. It is a baseline
of the reproduction `grasp`.
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


class PreventativeSteering(Constraint):
    """Steers along a direction in training passes. Raises as `change_stream` and `Directions.load`."""

    class Settings(method.Settings):
        directions: str = Field(description="file of directions, as pairtune scrub writes it")
        strength: float = Field(0.1, description="length of what is added, as a share of the activation's")
        layers: Literal["all", "middle"] = Field("all", description="behind which blocks: all, or the middle third")

        @field_validator("directions")
        @classmethod
        def _is_there(cls, value: str) -> str:
            return existing(value)

    settings: Settings

    def prepare(self, pair: Pair) -> None:
        direction, strength = Directions.load(self.settings.directions, pair.base).write[:, 0], self.settings.strength

        def steered(hidden: Tensor) -> Tensor:
            return hidden + strength * hidden.detach().norm(dim=-1, keepdim=True) * direction.to(hidden.dtype)

        self._handles = change_stream(pair, "preventative-steering", self.settings.layers, steered)

    def finish(self, pair: Pair) -> None:
        for handle in self._handles:
            handle.remove()
