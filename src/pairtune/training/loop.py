"""The training loop: `transformers.Trainer`, with what a pair needs put in its place.

Loss of an optimizer step: Σ over its micro-batches of (objective's sum + penalties · the micro-batch's units) / units
of the whole step, over all processes. So accumulation, and any number of processes, give the gradient of the one big
batch.
"""

from __future__ import annotations

import contextlib
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
from pairtune.pair.outputs import Outputs
from pairtune.training import checkpoint
from pairtune.training.callbacks import LoopEvents
from pairtune.training.guard import first_non_finite
from pairtune.training.oom import Pieces
from pairtune.training.optimizer import make_optimizer
from pairtune.training.order import GHOST, StepOrder, loader
from pairtune.training.parts import Sized, StepStart, frozen_modules
from pairtune.training.random_state import RandomState
from pairtune.training.sums import Sums, across_processes
from pairtune.training.validation import Best, Validation

if TYPE_CHECKING:
    from pairtune.constraints import Constraint
    from pairtune.objectives import Objective
    from pairtune.pair.pair import Pair

Collate = Callable[[list[int]], dict[str, Any]]
Features = Callable[[dict[str, Any]], dict[str, Tensor]]


class PairTrainer(Trainer):
    """The loop over one delta: the top layer of a pair.

    Overrides of `transformers.Trainer`, and why:
        get_train_dataloader: rows of a step do not depend on micro-batches or processes (`order.py`).
        get_batch_samples: counts the units of the whole step, over all processes.
        training_step: smaller pieces when memory runs out (`oom.py`), NaN guard, constraints on the whole gradient;
            without the stock one's walk over all modules at every batch.
        compute_loss: objective and constraints over one forward a side; frozen parts in evaluation mode.
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
        features: what the frozen base says of a batch's rows, from a cache; the model then does not run the base.
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
        self.validation, self.autocast = validation, autocast
        self.best = Best(objective, validation) if validation else None
        self.pieces, self.sums, self.features = Pieces(), Sums(), features
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
        needs = set(objective.needs).union(*(c.needs for c in constraints.values()))
        self._sides = [name for name in ("base_outputs", "reference_outputs") if name in needs]
        self._frozen = frozen_modules(pair)
        self._step_batches: list[dict[str, Any]] = []
        self._units, self._modes_set = 0.0, False
        self._before_pass: RandomState | None = None
        self.step_start: StepStart
        self.resumed: dict[str, Any] | None = None  # the loop's state in the checkpoint that is continued

    # -- data --------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        return loader(self.order, self._collate)

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        batches = list(itertools.islice(epoch_iterator, num_batches))
        own = sum(self.units(batch) for batch in batches)
        units = across_processes(torch.tensor(own, dtype=torch.float64), self.args).item()
        if not units:
            raise DataError(f"no {self.objective.unit} is scored in rows {self._rows(batches)} of the training split")
        return batches, units

    def units(self, batch: dict[str, Any]) -> float:
        """Units of a batch; a ghost has none."""
        return 0.0 if GHOST in batch else self.objective.units(batch)

    # -- one step ----------------------------------------------------------------------------------------------------

    def begin_step(self) -> None:
        """Called before the first micro-batch of an optimizer step."""
        self._step_batches = []
        self.step_start = StepStart(RandomState.now(self.args.device), self._tr_loss.clone(), self.sums.copy())

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        self._units = float(num_items_in_batch)
        self._step_batches.append(inputs)
        step = self.state.global_step + 1

        def one(pieces: list[dict[str, Any]]) -> Tensor:
            return torch.stack([self._pass(model, piece) for piece in pieces]).sum()

        def reset() -> None:
            model.zero_grad(set_to_none=True)
            self.sums = self.step_start.sums.copy()

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
        loss = self.compute_loss(model, self._prepare_inputs(batch))
        self.accelerator.backward(loss)
        if not loss.isfinite():
            self._stop(f"the loss became {loss.item()}", [batch])
        return loss.detach()

    def _training_mode(self, model: nn.Module) -> None:
        """Training mode where something trains, evaluation mode elsewhere, whatever has called `train()` or `eval()`.

        Looking is cheap and setting is not: a walk over all modules a step would cost more than all else here.
        """
        if not (model.training and self._modes_set):
            model.train()
            self._modes_set = True  # before, the parts may have been in another mode than the whole
        if any(module.training for module in self._frozen):
            for module in self._frozen:
                module.training = False

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self._training_mode(model)
        self.pair.begin_step()
        if self.features is not None:
            inputs = {**inputs, "features": self.features(inputs)}
        for side in self._sides:
            getattr(self.pair, side)(inputs)  # before the variant's forward: the pair must not switch after it
        with torch.autocast(self.args.device.type, self.autocast) if self.autocast else contextlib.nullcontext():
            out = Outputs.of(model(**self.pair.inputs(inputs)))
        loss = self.objective.loss(self.pair, inputs, out)
        share = self.units(inputs) / self._units
        value = loss.total / self._units if GHOST not in inputs else loss.total * 0.0
        parts = {} if GHOST in inputs else {name: part / self._units for name, part in loss.parts.items()}
        for name, constraint in self.constraints.items():
            penalty = constraint.penalty(self.pair, inputs, out)
            if penalty is not None:
                value = value + penalty * share
                parts[f"penalty_{name}"] = penalty.detach() * share
        self.sums.add(parts)
        value = value * self.args.world_size  # processes average their gradients
        return (value, out) if return_outputs else value

    def _rows(self, batches: list[dict[str, Any]]) -> str:
        numbers = [int(n) for batch in batches for n in batch["index"]]
        shown = ", ".join(self._where(n) for n in numbers[:16])
        return f"{shown} and {len(numbers) - 16} more" if len(numbers) > 16 else shown

    def _again(self, batch: dict[str, Any]) -> Tensor:
        return self.compute_loss(self.pair.model, batch)

    def _stop(self, what: str, batches: list[dict[str, Any]]) -> None:
        """Raise `NonFiniteError` with step, rows and layer."""
        where = None
        for batch in batches:
            if where is None and self.args.world_size == 1 and self._before_pass is not None:
                self._before_pass.restore(self.args.device)
                place = self.args.device
                moved = {k: v.to(place) if isinstance(v, Tensor) else v for k, v in batch.items()}
                where = first_non_finite(self.pair.model, partial(self._again, moved))
        layer = f"first seen in {where}" if where else "not seen again when computed once more"
        raise NonFiniteError(
            f"step {self.state.global_step + 1}: {what} on rows {self._rows(batches)} of the training split, {layer}; "
            "the state before this step is kept; try a lower training.lr or training.precision float32"
        )

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
            self._stop(f"the gradient's norm became {norm.item()}", self._step_batches)
        if most:
            torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
        return norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    # -- validation and log ------------------------------------------------------------------------------------------

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> dict:
        assert self.validation is not None
        self._step_batches = []
        metrics = self.validation.run(self.pair, self.objective, self.args, self.autocast)
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(dict(named))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        assert self.best is not None
        return self.best.see(metrics, self.state, self.control)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self.sums.take(self.args))
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
