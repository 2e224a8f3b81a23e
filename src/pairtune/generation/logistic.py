"""The weights of a logistic regression that tells the two sides apart, as a direction of the activations.

Li et al., "Inference-Time Intervention: Eliciting Truthful Answers from a Language Model", arXiv 2306.03341, and
REFLEX, arXiv 2511.20233: a linear probe is trained on activations, and its weights are the direction to steer along.

    min_w,b  mean log(1 + exp(−y (wᵀ z + b))) + |w|² / (2 C n)        z = (h − mean h) / std h
    s = (w · std h) / |w · std h|

h: [n, d] activations of both sides, y = +1 where present and −1 where absent; s: [d] the step along w, back in the
activations' own scale. (The plane itself has the normal w / std h, which leans on whatever hardly varies.) Departure:
how REFLEX maps the weights back is not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from pairtune import method
from pairtune.generation import Direction, unit

if TYPE_CHECKING:
    from torch import Tensor


class Logistic(Direction):
    """See the module's docstring."""

    class Settings(method.Settings):
        c: float = Field(0.1, gt=0, description="inverse strength of the L2 penalty: smaller holds the weights shorter")

    settings: Settings

    def probe(self) -> Any:
        """A fresh scikit-learn classifier: standardised, L2."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), LogisticRegression(C=self.settings.c, max_iter=1000))

    def fit(self, present: Tensor, absent: Tensor) -> Tensor:
        weights, scale = self._probed(present, absent)
        return unit(weights * scale)

    def plane(self, present: Tensor, absent: Tensor) -> Tensor:
        weights, scale = self._probed(present, absent)
        return unit(weights / scale)

    def _probed(self, present: Tensor, absent: Tensor) -> tuple[Tensor, Tensor]:
        """w and std h, [d] each; w is 0 where both sides are equal."""
        if torch.equal(present, absent):  # between equal points, the solver would give noise
            return torch.zeros(present.shape[1], dtype=torch.float64), torch.ones(present.shape[1], dtype=torch.float64)
        probe = self.probe()
        hidden = torch.cat([present, absent]).double().cpu().numpy()
        probe.fit(hidden, [1] * len(present) + [0] * len(absent))
        return torch.from_numpy(probe[1].coef_[0]), torch.from_numpy(probe[0].scale_)
