"""The loss of a task's rows as something that can be differentiated: fixed batches, and one function over them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pairtune import registry
from pairtune.analysis.predict import Reader
from pairtune.analysis.sharpness import normalised
from pairtune.data.encode import Encoder
from pairtune.objectives import Objective, pick
from pairtune.pair.pair import Pair, evaluating

if TYPE_CHECKING:
    from pairtune.data.split import Split
    from pairtune.data.task import Task

BATCH = 32


@dataclass(frozen=True)
class RowLoss:
    """Mean loss a unit (row or token) of the side of a pair that is on.

    A language model that classifies by text is asked for the label given the text; the text itself is not scored.

    Attributes:
        normal: whether logits are centred and scaled to length 1 first.
    """

    pair: Pair
    objective: Objective
    batches: list[dict[str, Any]]
    normal: bool = False

    @classmethod
    def of(cls, pair: Pair, task: Task, rows: Split) -> RowLoss:
        """Rows that have a target, in batches of 32 in their own order. Raises `InputError` as training would."""
        family = pair.base.family
        name = pick(task.on(family).kind, family, pair.views)
        view = "labels" if "labels" in (registry.find("objectives", name).needs or ()) else "tokens"
        only = view == "tokens" and task.label is not None
        objective = registry.build("objectives", name, {"completion_only": True} if only and name == "lm" else None)
        reader = Reader(pair, task)
        encoder = Encoder(
            task, pair.tokenizer, family, reader.encoder.max_length, view=view, completion_only=only or None
        )
        encoded = encoder.split(rows)
        places = [list(range(start, min(start + BATCH, len(rows)))) for start in range(0, len(rows), BATCH)]
        batches = []
        for numbers in places:
            batch = reader.collate(encoded.take(numbers))
            batches.append({name: tensor.to(pair.base.device) for name, tensor in batch.items()})
        return cls(pair, objective, batches)

    def __call__(self, batch: dict[str, Any]) -> Tensor:
        """The batch's mean loss, differentiable in whatever Parameters ask for it."""
        out = self.pair.forward(batch)
        if self.normal:
            out = replace(out, views=[(normalised(logits.float()), weight) for logits, weight in out.views])
        loss = self.objective.loss(self.pair, batch, out)
        return loss.total / loss.units

    @torch.no_grad()
    def mean(self) -> float:
        """The mean of the batches' losses, dropout off."""
        with evaluating(self.pair.model):
            return sum(self(batch).item() for batch in self.batches) / len(self.batches)
