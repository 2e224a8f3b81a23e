"""What a base makes of the rows of a task, frozen: the numbers that transferability scores are computed from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pairtune.analysis.predict import Reader, head_outputs
from pairtune.errors import InputError
from pairtune.pair.views import hidden_states

if TYPE_CHECKING:
    from pairtune.data.split import Split
    from pairtune.data.task import Task
    from pairtune.pair.base import Base


@dataclass(frozen=True)
class Features:
    """One base on N rows.

    Attributes:
        last, first: [N, D] and [N, D0] float64, mean over the positions behind the last and the first block.
        classes: [N] class indices, of classification. numbers: [N, K] targets, of regression.
        source: [N, Z] the probabilities that the base's own head gives to its own classes; None where it has none.
    """

    last: np.ndarray
    first: np.ndarray
    classes: np.ndarray | None = None
    numbers: np.ndarray | None = None
    source: np.ndarray | None = None

    @property
    def columns(self) -> np.ndarray:
        """[N, C] the targets as numbers: one column a class (1 or 0), or the targets themselves."""
        if self.classes is None:
            assert self.numbers is not None
            return self.numbers
        return (self.classes[:, None] == np.unique(self.classes)[None]).astype(float)


def features_of(base: Base, task: Task, rows: Split) -> Features:
    """The features of these rows, which have targets. The base is asked as it is, without a delta.

    Raises `InputError` for an encoder-decoder, and as `Encoder` does for a base that reads something else.
    """
    if base.family == "seq2seq":
        raise InputError(f"{base.source} is an encoder-decoder, of which no one block's features stand for a text")
    from pairtune.pair.pair import Pair

    pair = Pair(base)
    # A language model reads the text alone: in a row as it is trained on, the label's words follow it.
    seen = task if base.family == "encoder" else replace(task, kind="lm", label=None, labels=[])
    reader = Reader(pair, seen)
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for numbers, batch in reader.batches(rows):
        hidden = hidden_states(pair, batch, [1, -1])
        first, last = _pooled(hidden[1], batch), _pooled(hidden[-1], batch)
        found.update(zip(numbers, zip(first, last, strict=True), strict=True))
    first, last = (np.stack([found[i][side] for i in range(len(rows))]) for side in (0, 1))
    targets = np.array([task.target(row) for row in rows])
    if task.kind == "regression":
        return Features(last, first, numbers=targets.astype(float)[:, None])
    return Features(last, first, classes=targets, source=_source(pair, task, rows))


def _pooled(hidden: torch.Tensor, batch: dict) -> np.ndarray:
    """[B, D] mean over real positions."""
    mask = batch.get("attention_mask")
    if mask is None or mask.shape != hidden.shape[:2]:  # images and sound: all positions are real
        return hidden.double().mean(1).cpu().numpy()
    weights = mask.double().unsqueeze(-1)
    return ((hidden.double() * weights).sum(1) / weights.sum(1).clamp(min=1)).cpu().numpy()


def _source(pair, task: Task, rows: Split) -> np.ndarray | None:
    """What the base's own classifier says; None for a base without one, or with a new one."""
    if pair.base.labels is None or pair.base.new_names or "labels" not in pair.views:
        return None
    return np.exp(head_outputs(Reader(pair, task), rows))
