"""One stage of a run: install the tuner, train, prove, keep."""

from __future__ import annotations

import logging
from pathlib import Path
from signal import SIGTERM
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pairtune import registry
from pairtune.errors import NonFiniteError
from pairtune.pair.card import library_versions
from pairtune.pair.files import read_json, write_json
from pairtune.pair.pair import Layer, Pair
from pairtune.pair.staging import staged_folder
from pairtune.training import checkpoint, folders, resume, start
from pairtune.training.arguments import arguments, autocast_type, total_steps
from pairtune.training.callbacks import StopOnSignal
from pairtune.training.feeds import Feeds
from pairtune.training.loop import PairTrainer
from pairtune.training.oom import OutOfMemory, is_out_of_memory
from pairtune.training.preflight import preflight
from pairtune.training.progress import Progress
from pairtune.training.proofs import digest, prove_delta, prove_effect
from pairtune.training.signals import Signals, Stopped
from pairtune.training.validation import Validation

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.pair.installed import Installed
    from pairtune.training.config import RunConfig

log = logging.getLogger("pairtune")
# Settings that may differ between a run and its continuation: they do not reach the numbers. Base and data are known by
# their content, wherever they lie.
FREE = ("out", "device", "stages", "base", "revision", "data", "start")
FREE_TRAINING = ("keep", "trackers", "push_to_hub", "cache_gb")


def train_stage(
    pair: Pair,
    config: RunConfig,
    objective_name: str,
    task: Task,
    folder: Path,
    *,
    title: str,
    resume: bool | str | Path,
    allow_drift: bool,
    keep_delta: bool,
    earlier: Installed | None = None,
    first: Layer | None = None,
) -> dict[str, Any]:
    """Put the stage's delta on the pair and train it; the best checkpoint by validation is what stays.

    A delta in which nothing trains is validated and kept as it is; what is set of training has no say then.

    Args:
        earlier: the delta of the stage before, taken off the pair, for a tuner that learns from it where to tune.
        first: the delta to begin at, taken off the pair; None: no change.

    Returns what the card says of it: steps, best step, metrics, learning rate, preflight, events.
    """
    training, base = config.training, pair.base
    tuner = registry.build("tuners", config.tuner.name, config.tuner.settings)
    objective = registry.build("objectives", objective_name, config.objective.settings)
    constraints = {name: registry.build("constraints", name, values) for name, values in config.constraint.items()}
    feeds = Feeds.of(task, base, objective, training, config.seed, pair.tokenizer)
    if earlier is not None:
        tuner.follow(earlier)
    if first is None:
        installed = tuner.install(base, pair.model, feeds.calibration())
    else:
        installed = start.begin(tuner, config.tuner, pair, first)
    record = layer_record(config, objective_name)
    if first is not None:
        record["tuner"] = start.made_by(first, config.tuner) or record["tuner"]
    pair.push(Layer(installed, lambda: tuner.extract(installed), record))
    lr = training.lr or tuner.default_lr
    args = arguments(
        training, folder, rows=feeds.rows, lr=lr, seed=config.seed, device=base.device, validate=feeds.validates
    )
    caches = feeds.caches(folders.cache_folder(folder), base, installed, training) if args.world_size == 1 else {}
    check = None
    if feeds.validates:
        check = Validation(feeds.validation, training.metric, training.patience, caches.get("validation"))
    trainer = PairTrainer(
        pair,
        objective,
        constraints,
        args,
        train=feeds.train,
        rows=feeds.rows,
        batch_size=training.batch_size,
        accumulation=training.accumulation,
        run=folder,
        lr=lr,
        weight_decay=training.weight_decay,
        autocast=autocast_type(training.precision, base.device),
        validation=check,
        keep=training.keep,
        identity=identity_of(config, task, pair),
        where=feeds.where,
        features=caches.get("train"),
    )
    feeds.passes = lambda: trainer.order.epoch
    flight = None
    if pair.trainable():
        flight = preflight(trainer, total_steps(training, feeds.rows))
        if trainer.is_world_process_zero():
            Console(stderr=True).print(flight.table())
        before = digest(installed.state())
        found = _resumed(trainer, folder, resume, allow_drift)
        _train(trainer, found, title)
        pair.model.eval()
        best = trainer.state.best_global_step
        if best is not None and best != trainer.state.global_step:
            checkpoint.load_delta(trainer, folder / f"checkpoint-{best}")
        prove_delta(pair, before, feeds.train([0]))
    else:
        log.info("%s: nothing trains, so that no step is taken", title)
        if feeds.validates:
            trainer.evaluate()
        prove_effect(pair, feeds.train([0]))
    record["training"] = result = _result(trainer, lr, flight.to_dict() if flight else None)
    if keep_delta and trainer.is_world_process_zero():
        with staged_folder(folder / "delta") as staging:
            installed.write(staging)
            write_json(staging / "stage.json", result)
    return result


def restore_stage(pair: Pair, config: RunConfig, folder: Path) -> dict[str, Any]:
    """Put the delta of a stage that was finished before on the pair."""
    tuner = registry.build("tuners", config.tuner.name, config.tuner.settings)
    installed = tuner.restore(pair.base, pair.model, folder / "delta")
    result = read_json(folder / "delta" / "stage.json")
    record = {**layer_record(config, config.objective.name), "training": result}
    pair.push(Layer(installed, lambda: tuner.extract(installed), record))
    return result


def layer_record(config: RunConfig, objective: str) -> dict[str, Any]:
    """How a delta was made, as its card says it."""
    return {
        "tuner": {"name": config.tuner.name, **config.tuner.settings},
        "objective": {"name": objective, **config.objective.settings},
        "constraints": {name: dict(values) for name, values in config.constraint.items()},
    }


def identity_of(config: RunConfig, task: Task, pair: Pair) -> dict[str, Any]:
    """What a run must share with the one that it continues: settings, data, base, stack, versions."""
    settings = {k: v for k, v in config.model_dump(mode="json").items() if k not in FREE}
    settings["training"] = {k: v for k, v in settings["training"].items() if k not in FREE_TRAINING}
    return {
        "settings": settings,
        "data": task.fingerprint,
        "base": {"weights": pair.base.fingerprint.weights, "tokenizer": pair.base.fingerprint.tokenizer},
        "versions": library_versions(),
        **({"start": start.digest(config.start)} if config.start is not None else {}),
    }


def _resumed(trainer: PairTrainer, folder: Path, wanted: bool | str | Path, allow_drift: bool) -> Path | None:
    if not wanted:
        return None
    found = resume.find(folder, wanted)
    if found is not None:
        trainer.resumed = resume.check(found, trainer.identity, allow_drift)
        log.info("continuing from %s", found.name)
    return found


def _train(trainer: PairTrainer, found: Path | None, title: str) -> None:
    """Train until done, stopped or failed; what there is is kept."""
    with Signals() as signals:
        trainer.add_callback(stop := StopOnSignal(signals))
        trainer.add_callback(Progress(title))
        try:
            if not checkpoint.finished(trainer, found):
                trainer.train(resume_from_checkpoint=str(found) if found else None)
        except NonFiniteError as error:
            kept = checkpoint.save_last_good(trainer)
            raise NonFiniteError(f"{error} ({kept or 'no step was done yet'})") from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            problem = f"memory ran out outside of a batch ({str(error).splitlines()[0]})"
        else:
            problem = None
        finally:
            for constraint in trainer.constraints.values():
                constraint.finish(trainer.pair)
    if problem is not None:
        raise OutOfMemory(f"{problem}; a tuner with fewer trainable parameters or quantize 4bit need less")
    if stop.stopped:
        where = trainer.run_folder / f"checkpoint-{trainer.state.global_step}"
        raise Stopped(
            f"stopped after step {trainer.state.global_step}; {where} is kept, --resume continues",
            signals.received or SIGTERM,
        )


def _result(trainer: PairTrainer, lr: float, flight: dict[str, Any] | None) -> dict[str, Any]:
    state = trainer.state
    chosen = state.best_global_step if state.best_global_step is not None else state.global_step
    lines = [line for line in state.log_history if line.get("step") == chosen and "eval_loss" in line]
    metrics = {
        f"validation {k.removeprefix('eval_')}": v for k, v in (lines[-1] if lines else {}).items() if "eval_" in k
    }
    losses = [line["loss"] for line in state.log_history if "loss" in line]
    return {
        "steps": state.global_step,
        "chosen_step": chosen,
        "losses": [losses[0], losses[-1]] if len(losses) > 1 else None,
        "lr": lr,
        "metrics": metrics,
        "metric": trainer.best.metric if trainer.best else "loss",
        "rising": trainer.best.rising if trainer.best else False,
        "identity": trainer.identity,
        "preflight": flight,
        "out_of_memory": trainer.pieces.events,
        "drift": trainer.resumed["drift"] if trainer.resumed else [],
        "processes": folders.process()[1],
    }
