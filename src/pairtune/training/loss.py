"""The loss of an optimizer step, one micro-batch at a time: one forward a side for objective and constraints together.

    Σ over micro-batches of (objective's sum + penalties · the micro-batch's units) / units of the step

over all processes. So accumulation, pieces and any number of processes give the gradient of the one big batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pairtune.pair.outputs import Outputs
from pairtune.training.order import GHOST
from pairtune.training.parts import frozen_modules
from pairtune.training.sums import Sums

if TYPE_CHECKING:
    from pairtune.constraints import Constraint
    from pairtune.objectives import Objective
    from pairtune.pair.pair import Pair

Features = Callable[[dict[str, Any]], dict[str, Tensor]]


class StepLoss:
    """Objective and constraints over a pair.

    Attributes:
        step_units: units of the step that is being computed, over all processes; set before its first micro-batch.
        sums: the parts of the loss, for the log.
        modes_set: False makes the next pass set every module's mode again.

    Args:
        features: what the frozen base says of a batch's rows, from a cache; the model then does not run the base.
        autocast: the type to compute the forward in; None: the weights' own.
    """

    def __init__(
        self,
        pair: Pair,
        objective: Objective,
        constraints: dict[str, Constraint],
        device: torch.device,
        world: int,
        autocast: torch.dtype | None = None,
        features: Features | None = None,
    ):
        self.pair, self.objective, self.constraints = pair, objective, constraints
        self.device, self.world, self.autocast, self.features = device, world, autocast, features
        self.step_units, self.sums, self.modes_set = 0.0, Sums(), False
        needs = set(objective.needs).union(*(c.needs for c in constraints.values()))
        self._sides = [name for name in ("base_outputs", "reference_outputs") if name in needs]
        self._frozen = frozen_modules(pair)

    def units(self, batch: dict[str, Any]) -> float:
        """Units of a batch; a ghost has none."""
        return 0.0 if GHOST in batch else self.objective.units(batch)

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Outputs]:
        """This micro-batch's share of the step's loss, and the outputs. `model` may be wrapped (DDP, ...)."""
        self._set_modes(model)
        self.pair.begin_step()
        if self.features is not None:
            batch = {**batch, "features": self.features(batch)}
        for side in self._sides:
            getattr(self.pair, side)(batch)  # before the variant's forward: the pair must not switch after it
        with torch.autocast(self.device.type, self.autocast) if self.autocast else contextlib.nullcontext():
            out = Outputs.of(model(**self.pair.inputs(batch)))
        loss = self.objective.loss(self.pair, batch, out)
        real = GHOST not in batch
        value = loss.total / self.step_units if real else loss.total * 0.0
        parts = {name: part / self.step_units for name, part in loss.parts.items()} if real else {}
        share = self.units(batch) / self.step_units
        for name, constraint in self.constraints.items():
            penalty = constraint.penalty(self.pair, batch, out)
            if penalty is not None:
                value = value + penalty * share
                parts[f"penalty_{name}"] = penalty.detach() * share
        self.sums.add(parts)
        return value * self.world, out  # processes average their gradients

    def _set_modes(self, model: nn.Module) -> None:
        """Training mode where something trains, evaluation mode elsewhere, whatever has called `train()` or `eval()`.

        Looking is cheap and setting is not: a walk over all modules a step would cost more than all else here.
        """
        if not (model.training and self.modes_set):
            model.train()
            self.modes_set = True  # before, the parts may have been in another mode than the whole
        if any(module.training for module in self._frozen):
            for module in self._frozen:
                module.training = False
