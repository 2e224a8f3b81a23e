"""Spherical interpolation between two models: along the arc between their weights instead of the chord.

Shoemake, "Animating rotation with quaternion curves", 1985, doi 10.1145/325334.325242; for weights the practice of the
field rather than of one paper. The mean of two vectors that point apart is shorter than both; on the arc the length
goes evenly from one to the other.

    Ω = angle between A and B, each tensor taken as one vector
    W = sin((1 - t) Ω) / sin Ω · A + sin(t Ω) / sin Ω · B

Where the two are almost parallel or opposite (|cos Ω| above 0.9995), and for a tensor of zeros, it is linear.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from pairtune import method
from pairtune.merging import Merge

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.merging.engine.operands import Operands

PARALLEL = 0.9995


class Slerp(Merge):
    """Of the first model at t = 0 to the second at t = 1."""

    models = (2, 2)
    weighted = False

    class Settings(method.Settings):
        t: float = Field(0.5, ge=0, le=1, description="how far from the first model to the second")

    settings: Settings

    def measure(self, whole: Operands) -> tuple[float, float]:
        """The factors of the two models."""
        product = first = second = 0.0
        for piece in whole.pieces():
            a, b = piece.value(0).double(), piece.value(1).double()
            product += float(a @ b)
            first += float(a @ a)
            second += float(b @ b)
        t, lengths = self.settings.t, math.sqrt(first) * math.sqrt(second)
        cosine = product / lengths if lengths else 1.0
        if not abs(cosine) <= PARALLEL:
            return 1 - t, t
        angle = math.acos(cosine)
        return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)

    def combine(self, piece: Operands, measured: tuple[float, float]) -> Tensor:
        return piece.value(0).mul_(measured[0]).add_(piece.value(1), alpha=measured[1])
