"""Loss and metrics on the validation split, and which checkpoint they say is best.

Only the in-distribution validation split decides: no OOD or test split is ever passed here.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pairtune.errors import ConfigError, NonFiniteError
from pairtune.pair.outputs import Outputs
from pairtune.pair.pair import evaluating
from pairtune.registry import suggest
from pairtune.training.sums import across_processes

if TYPE_CHECKING:
    from pairtune.objectives import Objective
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")


class Validation:
    """The validation split as batches.

    Args:
        batches: gives the batches anew at every call, in the same order.
        metric: what decides; "auto" takes the objective's rising metric (accuracy) if it has one, else the loss.
        patience: end after this many validations without a better one; None: never.
        features: as in the loop, for these rows.
    """

    def __init__(
        self,
        batches: Callable[[], Any],
        metric: str = "auto",
        patience: int | None = None,
        features: Callable[[dict[str, Any]], dict[str, Tensor]] | None = None,
    ):
        self.batches, self.metric, self.patience, self.features = batches, metric, patience, features

    def run(self, pair: Pair, objective: Objective, args: Any, autocast: torch.dtype | None = None) -> dict[str, float]:
        """Mean loss a unit and mean parts a unit over the whole split, without dropout."""
        sums: dict[str, Tensor] = {}
        batches = list(self.batches())
        # Fewer batches than processes: each computes all of them, so that none is left without names to sum.
        shared = len(batches) >= args.world_size
        context = torch.autocast(args.device.type, autocast) if autocast else contextlib.nullcontext()
        with torch.no_grad(), evaluating(pair.model):
            for batch in batches[args.process_index :: args.world_size] if shared else batches:
                batch = {k: v.to(args.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
                pair.begin_step()
                if self.features is not None:
                    batch["features"] = self.features(batch)
                with context:
                    out = Outputs.of(pair.model(**pair.inputs(batch)))
                loss = objective.loss(pair, batch, out)
                units = torch.tensor(loss.units, dtype=torch.float64)
                for name, value in {"units": units, "loss": loss.total, **loss.parts}.items():
                    value = value.detach().double().cpu()
                    sums[name] = sums[name] + value if name in sums else value
        pair.begin_step()
        names = sorted(sums)
        totals = torch.stack([sums[name] for name in names])
        found = dict(zip(names, (across_processes(totals, args) if shared else totals).tolist(), strict=True))
        units = found.pop("units")
        if not math.isfinite(found["loss"]):
            raise NonFiniteError(f"the validation loss became {found['loss']}; try a lower training.lr")
        return {name: value / units for name, value in found.items()}


class Best:
    """Remembers the best validation; asks for a checkpoint of each new best, and for the end when patience is over."""

    def __init__(self, objective: Objective, validation: Validation):
        rising = sorted(objective.rising)
        self.metric = validation.metric if validation.metric != "auto" else (rising[0] if rising else "loss")
        self.rising = self.metric in objective.rising
        self.patience = validation.patience
        self.since = 0  # validations since the best one

    def see(self, metrics: dict[str, float], state: Any, control: Any) -> bool:
        """Take one validation's metrics; True where they are the best so far."""
        names = [name.removeprefix("eval_") for name in metrics]
        if self.metric not in names:
            hint = suggest(self.metric, names) or f" (there are {', '.join(names)})"
            raise ConfigError([f"training.metric: there is no {self.metric!r}{hint}"])
        value = metrics[f"eval_{self.metric}"]
        better = state.best_metric is None or (value > state.best_metric if self.rising else value < state.best_metric)
        if better:
            state.best_metric, state.best_global_step, self.since = value, state.global_step, 0
            control.should_save = True
        else:
            self.since += 1
        if self.over:
            log.info("no better %s in %d validations: stopping", self.metric, self.since)
            control.should_save = control.should_training_stop = True
        return better

    @property
    def over(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.since >= self.patience
