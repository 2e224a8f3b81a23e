"""The training loop: `transformers.Trainer`, with what a pair needs put in its place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from pairtune.errors import DataError, NonFiniteError
from pairtune.training import checkpoint
from pairtune.training.callbacks import LoopEvents
from pairtune.training.guard import first_non_finite
from pairtune.training.loss import Features, StepLoss
from pairtune.training.oom import Pieces
from pairtune.training.optimizer import make_optimizer
from pairtune.training.order import StepOrder, loader
from pairtune.training.parts import Sized, StepStart
from pairtune.training.random_state import RandomState
from pairtune.training.sums import across_processes
from pairtune.training.validation import Best, Validation

if TYPE_CHECKING:
    from pairtune.constraints import Constraint
    from pairtune.objectives import Objective
    from pairtune.pair.pair import Pair

Collate = Callable[[list[int]], dict[str, Any]]


class PairTrainer(Trainer):
    """The loop over one delta: the top layer of a pair.

    Overrides of `transformers.Trainer`, and why:
        get_train_dataloader: rows of a step do not depend on micro-batches or processes (`order.py`).
        get_batch_samples: counts the units of the whole step, over all processes.
        training_step: smaller pieces when memory runs out (`oom.py`), NaN guard, constraints on the whole gradient;
            without the stock one's walk over all modules at every batch.
        compute_loss: objective and constraints over one forward a side, frozen parts in evaluation mode (`loss.py`).
        create_optimizer: parameter groups (`optimizer.py`).
        _clip_grad_norm, _get_grad_norm: over the delta's parameters only; a non-finite norm stops the run.
        evaluate, _determine_best_metric: validation by the objective itself; best checkpoint, early stopping.
        _save_checkpoint and the five _load_*: our checkpoints (`checkpoint.py`): staged, whole, without pickles.
        log: the parts of the loss beside it.
        floating_point_ops: not counted (the stock count walks over all parameters at every batch).

    Args:
        pair: the pair whose top delta trains; every process has its own.
        train: makes a batch of row numbers of the training split, and `rows` says how many there are.
        run: folder for the checkpoints.
        identity: what a resumed run must agree with, by name (`resume.py`).
        where: says where a row stands (file and line), for messages.
        autocast, features: as in `StepLoss`.
    """

    def __init__(
        self,
        pair: Pair,
        objective: Objective,
        constraints: dict[str, Constraint],
        args: TrainingArguments,
        *,
        train: Collate,
        rows: int,
        batch_size: int,
        accumulation: int,
        run: Path,
        lr: float,
        weight_decay: float = 0.0,
        autocast: torch.dtype | None = None,
        validation: Validation | None = None,
        keep: int = 2,
        identity: dict[str, Any] | None = None,
        where: Callable[[int], str] = str,
        features: Features | None = None,
    ):
        self.pair, self.objective, self.constraints = pair, objective, constraints
        self.run_folder, self.identity, self.keep = run, identity or {}, keep
        self.validation = validation
        self.best = Best(objective, validation) if validation else None
        self.pieces = Pieces()
        self._collate, self._lr, self._decay, self._where = train, lr, weight_decay, where
        world, rank = args.world_size, args.process_index
        self.order = StepOrder(rows, batch_size, accumulation, args.seed, rank, world)
        args.per_device_train_batch_size, args.gradient_accumulation_steps = batch_size, self.order.passes
        for constraint in constraints.values():
            constraint.prepare(pair)
        super().__init__(
            model=pair.model, args=args, train_dataset=Sized(rows), eval_dataset=Sized(0) if validation else None
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(LoopEvents(self))
        self.loss_is_scaled_for_ga = True
        self.step_loss = StepLoss(pair, objective, constraints, args.device, world, autocast, features)
        self._step_batches: list[dict[str, Any]] = []
        self._before_pass: RandomState
        self.step_start: StepStart
        self.resumed: dict[str, Any] | None = None  # the loop's state in the checkpoint that is continued

    # -- data --------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        return loader(self.order, self._collate)

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        batches = list(itertools.islice(epoch_iterator, num_batches))
        own = sum(self.step_loss.units(batch) for batch in batches)
        units = across_processes(torch.tensor(own, dtype=torch.float64), self.args).item()
        if not units:
            raise DataError(f"no {self.objective.unit} is scored in rows {self._rows(batches)} of the training split")
        return batches, units

    # -- one step ----------------------------------------------------------------------------------------------------

    def begin_step(self) -> None:
        """Called before the first micro-batch of an optimizer step."""
        self._step_batches = []
        random = RandomState.now(self.args.device)
        self.step_start = StepStart(random, self._tr_loss.clone(), self.step_loss.sums.copy())

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        self.step_loss.step_units = float(num_items_in_batch)
        self._step_batches.append(inputs)
        step = self.state.global_step + 1

        def one(pieces: list[dict[str, Any]]) -> Tensor:
            return torch.stack([self._pass(model, piece) for piece in pieces]).sum()

        def reset() -> None:
            model.zero_grad(set_to_none=True)
            self.step_loss.sums = self.step_start.sums.copy()

        if self.args.world_size > 1 or self.objective.coupled:
            loss = one([inputs])
        else:
            loss = self.pieces.run(step, self._step_batches, one, reset)
        if self.accelerator.sync_gradients:
            for constraint in self.constraints.values():
                constraint.on_gradients(self.pair)
        return loss

    def _pass(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Forward and backward of one piece; the guard looks at its loss."""
        self._before_pass = RandomState.now(self.args.device)
        loss, _ = self.step_loss(model, self._prepare_inputs(batch))
        self.accelerator.backward(loss)
        if not loss.isfinite():
            self.stop(f"the loss became {loss.item()}", [batch])
        return loss.detach()

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        value, out = self.step_loss(model, inputs)
        return (value, out) if return_outputs else value

    def stop(self, what: str, batches: list[dict[str, Any]]) -> None:
        """Raise `NonFiniteError` with step, rows and layer."""
        model, found = self.pair.model, None
        for batch in batches if self.args.world_size == 1 else ():
            self._before_pass.restore(self.args.device)
            inputs = self._prepare_inputs(batch)
            found = found or first_non_finite(model, partial(self.compute_loss, model, inputs))
        layer = f"first seen in {found}" if found else "not seen again when computed once more"
        raise NonFiniteError(
            f"step {self.state.global_step + 1}: {what} on rows {self._rows(batches)} of the training split, {layer}; "
            "the state before this step is kept; try a lower training.lr or training.precision float32"
        )

    def _rows(self, batches: list[dict[str, Any]]) -> str:
        numbers = [int(n) for batch in batches for n in batch["index"]]
        shown = ", ".join(self._where(n) for n in numbers[:16])
        return f"{shown} and {len(numbers) - 16} more" if len(numbers) > 16 else shown

    # -- optimizer ---------------------------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.pair, self.constraints.values(), self._lr, self._decay)
        return self.optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        return self._norm(self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return self._norm(None) if grad_norm is None else grad_norm

    def _norm(self, most: float | None) -> Tensor:
        parameters = [parameter for _, parameter in self.pair.trainable() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not norm.isfinite():
            self.stop(f"the gradient's norm became {norm.item()}", self._step_batches)
        if most:
            torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
        return norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    # -- validation and log ------------------------------------------------------------------------------------------

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> dict:
        assert self.validation is not None
        self._step_batches = []
        metrics = self.validation.run(self.pair, self.objective, self.args, self.step_loss.autocast)
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(dict(named))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        assert self.best is not None
        return self.best.see(metrics, self.state, self.control)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self.step_loss.sums.take(self.args))
        super().log(logs, start_time)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        checkpoint.save(self)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint.load_delta(self, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint_folder: str | None) -> None:
        if checkpoint_folder is not None:
            checkpoint.load_optimizer(self, Path(checkpoint_folder))

    def _load_rng_state(self, checkpoint_folder: str | None) -> None:
        if checkpoint_folder is not None:
            checkpoint.load_random_state(self, Path(checkpoint_folder))

    def _load_scaler(self, checkpoint_folder: str | None) -> None:
        """There is none: computation in float16 is not offered."""
