"""Weighted mean of the models' weights (model soup).

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time", arXiv 2203.05482: fine-tuned models of one base often lie in one basin, where the mean of their weights
is as good as the mean of their answers and costs one model.

    W = sum_i w_i W_i / sum_i w_i        W_i: the tensor of model i, any shape

With `normalize: false` the sum is not divided, which rescales the model unless the weights sum to one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pairtune import method
from pairtune.merging import Merge
from pairtune.merging.weights import normalized

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.merging.engine.operands import Operands


class Linear(Merge):
    """Needs no base; where there is one, it is a model like the others only if it is listed among them."""

    linear = True

    class Settings(method.Settings):
        normalize: bool = Field(True, description="divide by the sum of the weights")

    settings: Settings

    def combine(self, piece: Operands, measured: Any) -> Tensor:
        scales = self.scales(piece.weights)
        out = piece.value(0).mul_(scales[0])
        for i in range(1, len(piece)):
            out.add_(piece.value(i), alpha=scales[i])
        return out

    def scales(self, weights: tuple[float, ...]) -> tuple[float, ...]:
        return normalized(weights) if self.settings.normalize else weights

    def alone(self, weights: tuple[float, ...]) -> int | None:
        used = [i for i, scale in enumerate(self.scales(weights)) if scale]
        return used[0] if len(used) == 1 and self.scales(weights)[used[0]] == 1 else None

    def keeps(self, weights: tuple[float, ...]) -> bool:
        return abs(sum(self.scales(weights)) - 1) < 1e-9
