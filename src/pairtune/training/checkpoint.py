"""Checkpoints of a run: the delta, the optimizer, the generators and the loop's own sums, whole or not at all.

    checkpoint-<step>/
        delta.safetensors       what is tuned (the base is never copied)
        optimizer.safetensors   AdamW's state, by parameter name
        random.safetensors      the generators of every process
        trainer_state.json      transformers' TrainerState (step, epoch, log, best metric)
        loop.json               schedule, parameter groups, sums of the log, early stopping, what the run was
        COMPLETE                names, sizes and hashes of all the files, written last

The folder is staged and renamed (`pair/staging.py`), by one process; older checkpoints are removed only after that.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TrainerState

from pairtune.errors import ResumeMismatch
from pairtune.pair.complete import is_complete
from pairtune.pair.files import open_safetensors, read_json, write_json, write_safetensors
from pairtune.pair.staging import staged_folder
from pairtune.training.random_state import RandomState
from pairtune.training.resume import LOOP_FILE, RANDOM_FILE, step_of

if TYPE_CHECKING:
    from pairtune.training.loop import PairTrainer

log = logging.getLogger("pairtune")
DELTA_FILE, OPTIMIZER_FILE, STATE_FILE = "delta.safetensors", "optimizer.safetensors", "trainer_state.json"


def save(trainer: PairTrainer, random: RandomState | None = None) -> Path:
    """Write the checkpoint of the step that was just done, then remove what `keep` leaves over.

    Args:
        random: the generators' state to store; by default the present one.

    Raises `DiskFull` with the bytes needed and free, with the checkpoint before still the newest.
    """
    folder = trainer.run_folder / f"checkpoint-{trainer.state.global_step}"
    generators = _of_all_processes((random or RandomState.now(trainer.args.device)).tensors(), trainer)
    if trainer.is_world_process_zero():
        with staged_folder(folder) as staging:
            state = trainer.pair.top.installed.state()
            write_safetensors(staging / DELTA_FILE, {k: v.contiguous() for k, v in state.items()}, {})
            tensors, groups = _optimizer_state(trainer)
            write_safetensors(staging / OPTIMIZER_FILE, tensors, {})
            write_safetensors(staging / RANDOM_FILE, generators, {})
            write_json(staging / STATE_FILE, dataclasses.asdict(trainer.state))
            write_json(staging / LOOP_FILE, _loop_state(trainer, groups))
        prune(trainer)
    trainer.accelerator.wait_for_everyone()
    return folder


def prune(trainer: PairTrainer) -> None:
    """Remove complete checkpoints beyond the newest `keep` and the best one."""
    folders = sorted((f for f in trainer.run_folder.glob("checkpoint-*") if is_complete(f)), key=step_of)
    best = trainer.state.best_global_step if trainer.best else None
    for folder in folders[: -trainer.keep]:
        if step_of(folder) != best:
            shutil.rmtree(folder, ignore_errors=True)


def save_last_good(trainer: PairTrainer) -> Path | None:
    """After a failed step: the checkpoint of the state before it; None where no step was done yet."""
    folder = trainer.run_folder / f"checkpoint-{trainer.state.global_step}"
    if trainer.state.global_step == 0 or is_complete(folder):
        return folder if trainer.state.global_step else None
    for _, parameter in trainer.pair.trainable():
        parameter.grad = None
    start = trainer.step_start
    trainer._tr_loss, trainer.step_loss.sums = start.loss, start.sums
    return save(trainer, start.random)


def finished(trainer: PairTrainer, folder: Path | None) -> bool:
    """Whether the run ended with this checkpoint, at its last step or by early stopping; if so, it is taken over."""
    if folder is None:
        return False
    state = TrainerState.load_from_json(str(folder / STATE_FILE))
    restore_sums(trainer)
    over = trainer.best is not None and trainer.best.over
    if state.global_step < trainer.args.max_steps and not over:
        return False
    trainer.state = state
    load_delta(trainer, folder)
    return True


def load_delta(trainer: PairTrainer, folder: Path) -> None:
    """The tuned tensors; strict."""
    trainer.pair.top.installed.load_state(_read(folder / DELTA_FILE))


def load_optimizer(trainer: PairTrainer, folder: Path) -> None:
    """AdamW's state and the schedule's. Raises `ResumeMismatch` where the parameter groups are not the same."""
    loop, raw = read_json(folder / LOOP_FILE), _raw(trainer.optimizer)
    stored = {name for group in loop["groups"] for name in group["names"]}
    present = {name for group in raw.param_groups for name in group["names"]}
    if [g["names"] for g in loop["groups"]] != [g["names"] for g in raw.param_groups]:
        odd = sorted(stored ^ present)
        raise ResumeMismatch(
            f"{folder.name}: other parameters are tuned than before ({', '.join(odd[:5]) or 'regrouped'})"
        )
    tensors = _read(folder / OPTIMIZER_FILE)
    for group, saved in zip(raw.param_groups, loop["groups"], strict=True):
        group.update({k: tuple(v) if k == "betas" else v for k, v in saved.items()})
        for name, parameter in zip(group["names"], group["params"], strict=True):
            own = {key.rsplit("|", 1)[1]: value for key, value in tensors.items() if key.rsplit("|", 1)[0] == name}
            if own:
                # Only a fused step counts its steps on the device.
                raw.state[parameter] = {
                    k: v.to(parameter.device) if v.ndim or group["fused"] else v for k, v in own.items()
                }
    schedule: Any = trainer.lr_scheduler
    schedule.load_state_dict(loop["scheduler"])


def load_random_state(trainer: PairTrainer, folder: Path) -> None:
    """This process's generators. A process that the run did not have before takes a seed from seed, step and rank."""
    path = folder / RANDOM_FILE
    rank, device = trainer.args.process_index, trainer.args.device
    tensors = _read(path) if path.is_file() else {}
    own = {k.split(".", 1)[1]: v for k, v in tensors.items() if k.startswith(f"{rank}.")}
    if own:
        RandomState.of(own).restore(device)
        return
    log.warning("%s has no random state for process %d: a new one is taken; dropout will differ", folder.name, rank)
    torch.manual_seed(hash((trainer.args.seed, trainer.state.global_step, rank)) % 2**63)


def restore_sums(trainer: PairTrainer) -> None:
    """What the log and early stopping had added up, when the run was resumed."""
    loop = trainer.resumed
    if loop is None:
        return
    trainer._tr_loss = torch.tensor(loop["tr_loss"], device=trainer.args.device)
    trainer._total_loss_scalar = loop["total_loss"]
    trainer._globalstep_last_logged = loop["last_logged"]
    trainer.step_loss.sums.load_state(loop["sums"], trainer.args.device)
    trainer.pieces.load_state(loop["pieces"])
    if trainer.best is not None:
        trainer.best.since = loop["since_best"]


def _loop_state(trainer: PairTrainer, groups: list[dict[str, Any]]) -> dict[str, Any]:
    schedule: Any = trainer.lr_scheduler
    return {
        "groups": groups,
        "scheduler": schedule.state_dict(),
        "tr_loss": trainer._tr_loss.item(),
        "total_loss": trainer._total_loss_scalar,
        "last_logged": trainer._globalstep_last_logged,
        "sums": trainer.step_loss.sums.state(),
        "pieces": trainer.pieces.state(),
        "since_best": trainer.best.since if trainer.best else 0,
        "identity": trainer.identity,
        "processes": trainer.args.world_size,
        "drift": trainer.resumed["drift"] if trainer.resumed else [],
    }


def _optimizer_state(trainer: PairTrainer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """State tensors as `<parameter>|<what>`, and the groups' settings."""
    raw, tensors = _raw(trainer.optimizer), {}
    for group in raw.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in raw.state.get(parameter, {}).items():
                tensors[f"{name}|{key}"] = value.detach().contiguous()
    return tensors, [{k: v for k, v in group.items() if k != "params"} for group in raw.param_groups]


def _raw(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def _of_all_processes(tensors: dict[str, Tensor], trainer: PairTrainer) -> dict[str, Tensor]:
    if trainer.args.world_size == 1:
        return {f"0.{name}": tensor for name, tensor in tensors.items()}
    gathered = {}
    for name, tensor in sorted(tensors.items()):
        pieces = trainer.accelerator.gather(tensor.to(trainer.args.device)[None])
        gathered.update({f"{rank}.{name}": piece.cpu().clone() for rank, piece in enumerate(pieces)})
    return gathered


def _read(path: Path) -> dict[str, Tensor]:
    opened = open_safetensors(path)
    return {name: opened.tensor(name).clone() for name in opened}
