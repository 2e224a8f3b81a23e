"""The mean of the models, drawn towards the base by as much as their changes disagree (Model Stock).

Jang, Yun and Han, "Model Stock: All we need is just a few fine-tuned models", arXiv 2403.19522: fine-tuned weights lie
on a shell around a centre that is better than each of them; from the angle between their changes one can tell how far
the mean of a few is from it.

    δ_i = W_i - W0,  c = mean over pairs of cos(δ_i, δ_j), each tensor taken as one vector,  N models
    t   = N c / (1 + (N - 1) c)
    W   = t mean_i W_i + (1 - t) W0

Where the denominator is 0 (changes that cancel) the base is kept.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from pairtune.merging import Merge

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.merging.engine.operands import Operands


class ModelStock(Merge):
    """Has nothing to set: the weights of the mean follow from the models."""

    needs = frozenset({"base"})
    models = (2, 1_000_000)
    weighted = False

    def measure(self, whole: Operands) -> float:
        """t, the share of the mean."""
        count = len(whole)
        products = dict.fromkeys(itertools.combinations_with_replacement(range(count), 2), 0.0)
        for piece in whole.pieces():
            changes = [piece.change(i).double() for i in range(count)]
            for i, j in products:
                products[i, j] += float(changes[i] @ changes[j])
        cosines = []
        for i, j in itertools.combinations(range(count), 2):
            lengths = math.sqrt(products[i, i]) * math.sqrt(products[j, j])
            cosines.append(products[i, j] / lengths if lengths else 0.0)
        cosine = sum(cosines) / len(cosines)
        denominator = 1 + (count - 1) * cosine
        return count * cosine / denominator if abs(denominator) > 1e-6 else 0.0

    def combine(self, piece: Operands, measured: float) -> Tensor:
        out = piece.base()
        for i in range(len(piece)):
            out.add_(piece.change(i), alpha=measured / len(piece))
        return out
