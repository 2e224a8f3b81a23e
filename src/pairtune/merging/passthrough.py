"""One model's tensors as they are: to stack layers of models, or to write a model anew.

Of the practice of the field (the "frankenmerges" of mergekit), no paper: a model of more layers is put together from
runs of layers of others, usually with a recipe file that says which.

    W = scale · W_1

With the scale 1 the stored bytes are copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pairtune import method
from pairtune.merging import Merge

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.merging.engine.operands import Operands


class Passthrough(Merge):
    """Takes exactly one model for each tensor."""

    models = (1, 1)
    weighted = False

    class Settings(method.Settings):
        scale: float = Field(1.0, description="by what the tensors are multiplied")

    settings: Settings

    def combine(self, piece: Operands, measured: Any) -> Tensor:
        return piece.value(0).mul_(self.settings.scale)

    def alone(self, weights: tuple[float, ...]) -> int | None:
        return 0 if self.settings.scale == 1 else None

    def keeps(self, weights: tuple[float, ...]) -> bool:
        return self.settings.scale == 1
