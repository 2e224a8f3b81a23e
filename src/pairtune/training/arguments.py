"""What transformers' Trainer is told."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import get_available_reporting_integrations

from pairtune.errors import ConfigError, InputError
from pairtune.registry import suggest

if TYPE_CHECKING:
    from pairtune.training.config import Training

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def total_steps(training: Training, rows: int) -> int:
    """Optimizer steps of a run over a split of so many rows."""
    if training.max_steps is not None:
        return training.max_steps
    return math.ceil(training.epochs * steps_per_epoch(training, rows))


def steps_per_epoch(training: Training, rows: int) -> int:
    """Optimizer steps of one pass over the split; the last one may be smaller."""
    return math.ceil(rows / (training.batch_size * training.accumulation))


def arguments(
    training: Training, folder: Path, *, rows: int, lr: float, seed: int, device: torch.device, validate: bool
) -> TrainingArguments:
    """The Trainer's arguments for a run. Everything is counted in steps, so that a resumed run finds the same ones."""
    total = total_steps(training, rows)
    eval_every = min(training.eval_every or steps_per_epoch(training, rows), total)
    save_every = training.save_every or (eval_every if validate else steps_per_epoch(training, rows))
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": total,
        "learning_rate": lr,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "lr_scheduler_type": SCHEDULES[training.schedule],
        "warmup_steps": math.ceil(total * training.warmup),
        "seed": seed,
        "logging_steps": training.log_every,
        "logging_first_step": True,  # where the loss began
        "save_strategy": "steps",
        "save_steps": save_every,
        "eval_strategy": "steps" if validate else "no",
        "eval_steps": eval_every,
        "report_to": training.trackers or "none",
        "use_cpu": device.type == "cpu",
        "disable_tqdm": True,
        "log_level": "error",
        "remove_unused_columns": False,
        "label_names": [],
        "dataloader_pin_memory": False,
        "logging_nan_inf_filter": False,  # the stock log shows NaN as the mean of what went before
    }
    _check_trackers(training.trackers)
    args = TrainingArguments(**settings)
    if device.type == "cuda" and args.world_size == 1 and device.index:
        raise InputError(
            f"device: a run uses the first visible accelerator; CUDA_VISIBLE_DEVICES={device.index} chooses"
        )
    args._n_gpu = 1  # with several accelerators in sight, the Trainer would spread every batch over them by threads
    return args


def _check_trackers(names: list[str]) -> None:
    """Raise `ConfigError` for a tracker that transformers does not know or whose package is not installed."""
    present = get_available_reporting_integrations()
    problems = [
        f"training.trackers: {name!r} is not one of transformers' trackers, or its package is not installed"
        f"{suggest(name, present)} (installed: {', '.join(present) or 'none'})"
        for name in names
        if name not in present
    ]
    if problems:
        raise ConfigError(problems)


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of autocast for `training.precision`; None computes in the weights' own type.

    "auto" takes bfloat16 on an accelerator that has it. On a CPU it stays with float32: casting costs more than it
    saves on small models, and is asked for by name on large ones.
    """
    if precision == "bf16":
        return torch.bfloat16
    if precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return None
