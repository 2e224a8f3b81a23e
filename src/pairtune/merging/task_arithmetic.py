"""The base plus a weighted sum of what each model added to it (task vectors).

Ilharco et al., "Editing Models with Task Arithmetic", arXiv 2212.04089: the difference between a fine-tuned model and
its base is a direction that can be added, scaled and negated; sums of them combine tasks, a negative weight unlearns.

    W = W0 + λ sum_i w_i (W_i - W0)        W0: the base's tensor, W_i: that of model i

With weights that are all 0 the result is the base, bit for bit. The paper has one λ for all tasks; with `normalize` the
sum is divided by the sum of the weights.
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


class TaskArithmetic(Merge):
    """The weights are used as they are: two tasks with 1 each are both added whole."""

    needs = frozenset({"base"})
    linear = True

    class Settings(method.Settings):
        scale: float = Field(1.0, description="λ: by what the sum of the changes is multiplied")
        normalize: bool = Field(False, description="divide by the sum of the weights")

    settings: Settings

    def combine(self, piece: Operands, measured: Any) -> Tensor:
        out = piece.base()
        for i, scale in enumerate(self.scales(piece.weights)):
            if scale:
                out.add_(piece.change(i), alpha=scale)
        return out

    def scales(self, weights: tuple[float, ...]) -> tuple[float, ...]:
        found = normalized(weights) if self.settings.normalize else weights
        return tuple(self.settings.scale * weight for weight in found)
