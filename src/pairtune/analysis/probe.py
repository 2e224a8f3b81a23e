"""The base's side of a comparison where the head is new: base + linear probe, fitted on the ID training split.

A new head belongs to the delta, so that the base has none, and comparing with a random one would say nothing. What the
base's features already allow is what a linear model on them reaches.
"""

from __future__ import annotations

import numpy as np
import torch

from pairtune.analysis.predict import Reader
from pairtune.data.split import Split
from pairtune.errors import MissingView
from pairtune.pair.linear_probe import NAME, STRENGTHS, LinearProbe
from pairtune.pair.views import hidden_states

__all__ = ["NAME", "Probe", "pooled"]

MOST_ROWS = 4000


class Probe:
    """A linear model on the base's mean-pooled last block.

    The regularisation is chosen by cross-validation on the training rows. At most 4,000 of them are used, evenly spread
    over the split.
    """

    def __init__(self, reader: Reader):
        self.reader = reader
        task = reader.task
        if task.kind not in ("classification", "regression"):
            raise MissingView(f"the base's side of a {task.kind} task with a new head is not defined; compare variants")
        train = task.split("train")
        step = max(1, -(-len(train) // MOST_ROWS))
        self._fit(train.select(range(0, len(train), step)))

    def _fit(self, train: Split) -> None:
        features, targets = pooled(self.reader, train), self._targets(train)
        if self.reader.task.kind == "regression":
            from sklearn.linear_model import RidgeCV
            from sklearn.pipeline import make_pipeline
            from sklearn.preprocessing import StandardScaler

            model = make_pipeline(StandardScaler(), RidgeCV(alphas=[1 / c for c in STRENGTHS])).fit(features, targets)
            self._outputs = lambda found: model.predict(found)[:, None]
        else:
            self._outputs = LinearProbe(features, targets, len(self.reader.task.labels)).log_probs

    def _targets(self, split: Split) -> np.ndarray:
        return np.array([self.reader.task.target(row) for row in split])

    def outputs(self, split: Split) -> np.ndarray:
        """As `head_outputs`: [N, C] log-probabilities, or [N, 1] numbers."""
        return self._outputs(pooled(self.reader, split))


@torch.inference_mode()
def pooled(reader: Reader, split: Split) -> np.ndarray:
    """[N, d] mean over real tokens of the base's last block."""
    found: dict[int, np.ndarray] = {}
    for rows, batch in reader.batches(split):
        with reader.pair.off():
            last = hidden_states(reader.pair, batch, [-1])[-1].float()
        mask = batch["attention_mask"].unsqueeze(-1).float()
        mean = (last * mask).sum(1) / mask.sum(1).clamp(min=1)
        found.update(zip(rows, mean.cpu().numpy(), strict=True))
    return np.stack([found[i] for i in range(len(split))])
