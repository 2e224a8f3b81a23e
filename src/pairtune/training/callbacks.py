"""What happens at the Trainer's events: sums that survive a resume, steps of constraints, a request to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from pairtune.training import checkpoint
from pairtune.training.sums import across_processes

if TYPE_CHECKING:
    from pairtune.training.loop import PairTrainer
    from pairtune.training.signals import Signals


class LoopEvents(TrainerCallback):
    """The loop's own events."""

    def __init__(self, trainer: PairTrainer):
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Here, because the Trainer sets its sums to zero after it has loaded a checkpoint.
        checkpoint.restore_sums(self._trainer)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Not left to the Trainer: after a resume it hands out a loader that does not pass the epoch on.
        self._trainer.order.set_epoch(int(state.epoch or 0))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.begin_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.step_loss.sums.steps += 1

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for constraint in self._trainer.constraints.values():
            constraint.after_step(self._trainer.pair)


class StopOnSignal(TrainerCallback):
    """After the step in which a signal came: one last checkpoint, then the end."""

    def __init__(self, signals: Signals):
        self._signals, self.stopped = signals, False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        heard = torch.tensor(float(self._signals.received is not None))
        # Processes hear a signal at different times, and must leave the loop together.
        if across_processes(heard, args).item() and state.global_step < state.max_steps:
            self.stopped = True
            control.should_save = control.should_training_stop = True
        return control
