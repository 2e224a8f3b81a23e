"""`tune`: from a configuration to a pair, in one call. The API behind `pairtune tune`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import set_seed

from pairtune import registry
from pairtune.data import Task
from pairtune.data import check as check_task
from pairtune.errors import ConfigError, InputError, ResumeMismatch
from pairtune.objectives import misfit, pick
from pairtune.pair import hub
from pairtune.pair.base import Base, family_of, folder_of
from pairtune.pair.complete import is_complete
from pairtune.pair.modality import MODALITIES, modality_of
from pairtune.pair.pair import Pair
from pairtune.training import folders
from pairtune.training.config import RunConfig
from pairtune.training.keep import card_of, save
from pairtune.training.resume import differences
from pairtune.training.stage import identity_of, restore_stage, train_stage
from pairtune.training.start import open_start

log = logging.getLogger("pairtune")


def tune(
    config: RunConfig | Mapping[str, Any] | str | Path,
    *,
    resume: bool | str | Path = False,
    restart: bool = False,
    allow_drift: bool = False,
) -> Pair:
    """Tune a pair and, where `config.out` names a folder, save it there.

    Args:
        config: a `RunConfig`, a nested mapping or a YAML file.
        resume: continue the run in `<out>.run` from its newest complete checkpoint, or from this checkpoint's folder; a
            run that had not begun begins.
        restart: replace what is there.
        allow_drift: continue although data, settings or versions differ; recorded in the checkpoints and the card.

    Raises `ConfigError`, `InputError` and its children for what cannot be used, before the base is loaded where that
    can be known; `NonFiniteError`, `OutOfMemory`, `DiskFull` when the run fails, with its last good state kept;
    `Stopped` after Ctrl-C or SIGTERM, with a final checkpoint.
    """
    config = as_config(config)
    out = Path(config.out) if config.out is not None else None
    stages = config.steps()
    if resume and out is not None and is_complete(out) and not restart:
        return _finished(out, stages[-1], load_task(config), allow_drift)
    with folders.work_folder(out, len(stages), continuing=bool(resume), restart=restart) as work:
        task = load_task(config)
        objectives = check(config, stages, task)
        base = load_base(config, task)
        pair = Pair(base) if config.start is None else open_start(config.start, base, task)
        use_cache = getattr(pair.base.model.config, "use_cache", None)
        pair.base.model.config.use_cache = False  # a key-value cache costs memory, and hides packed documents' bounds
        _in_step(pair)
        checksum = pair.base.checksum()
        record: dict[str, Any] = {}
        for i, (stage, objective) in enumerate(zip(stages, objectives, strict=True)):
            folder = folders.stage_folder(work, i, len(stages))
            set_seed(config.seed)
            earlier = pair.pop().installed if config.stages and config.stages[i].rewind else None
            first = pair.pop() if config.start is not None and not i else None
            if resume and len(stages) > 1 and is_complete(folder / "delta"):
                record = restore_stage(pair, stage, folder)
                continue
            title = config.stages[i].name or f"stage {i + 1}" if config.stages else "tune"
            named = not isinstance(resume, bool) and Path(resume).parent == folder
            record = train_stage(
                pair, stage, objective, task, folder, title=title, resume=resume if named else bool(resume),
                allow_drift=allow_drift, keep_delta=len(stages) > 1, earlier=earlier, first=first,
            )  # fmt: skip
            del earlier, first  # what was taken off costs a second set of the weights
        pair.base.model.config.use_cache = use_cache
        pair.verify_base(checksum)
        pair.card = card_of(pair, config, task, record)
        if out is not None:
            save(pair, out, config.training.push_to_hub)
    return pair


def _finished(out: Path, stage: RunConfig, task: Task, allow_drift: bool) -> Pair:
    """The pair that a run has left already. Raises `ResumeMismatch` where it is not this run's."""
    pair = Pair.load(out, device=stage.device)
    before = pair.top.record.get("training", {}).get("identity", {})
    found = differences(before, identity_of(stage, task, pair))
    if found and not allow_drift:
        listing = "\n".join(f"  - {line}" for line in found)
        raise ResumeMismatch(f"{out} is the pair of another run:\n{listing}\n--restart replaces it")
    log.info("%s is finished already", out)
    return pair


def as_config(config: RunConfig | Mapping[str, Any] | str | Path) -> RunConfig:
    """Whatever people give as a configuration."""
    if isinstance(config, RunConfig):
        return config
    return RunConfig.read(config) if isinstance(config, (str, Path)) else RunConfig.of(config)


def load_task(config: RunConfig) -> Task:
    """The task that `config.data` names; what is suspicious in it is said in the log."""
    task = Task.load(config.data)
    log.info("%s", task.describe())
    for finding in check_task(task):
        log.warning("%s", finding)
    if "train" not in task.splits:
        raise InputError(f"{task.name}: there is no train split (splits: {', '.join(task.splits)})")
    return task


def load_base(config: RunConfig, task: Task) -> Base:
    """The base, with a head for the task where it is an encoder."""
    return Base.load(
        config.base,
        task=task.kind,
        labels=task.labels or None,
        dtype=config.dtype,
        device=config.device or folders.own_device(),
        revision=config.revision,
        quantize=config.quantize,
        head_seed=config.seed,
    )


def check(config: RunConfig, stages: list[RunConfig], task: Task) -> list[str]:
    """The objective of each stage by name, once it is sure that tuner, objective, task and base go together.

    Reads the base's configuration and the methods' files, no weights. Raises one `ConfigError` naming every misfit.
    """
    about = hub.load_config(folder_of(config.base, config.revision))
    family, reads = family_of(about), modality_of(about)
    if reads.name != task.modality:
        raise InputError(
            f"{config.base} reads {reads.many}, {task.name} holds {MODALITIES[task.modality].many}; take another base, "
            "or name the column that is read: --data.text COLUMN"
        )
    kind = task.on(family).kind
    chosen, problems = [], []
    for i, stage in enumerate(stages):
        where = f"stages.{i}." if config.stages else ""
        problems += [f"{where}{problem}" for problem in _misplaced(config, i, stage)]
        info = registry.find("tuners", stage.tuner.name)
        families = info.traits.get("families")
        provides = info.provides or frozenset({"tokens", "labels"})
        if families and family not in families:
            problems.append(f"{where}tuner: {info.name} serves {' and '.join(sorted(families))} models, not {family}")
            continue
        served = info.traits.get("modalities", MODALITIES)
        if reads.name not in served:
            known = " and ".join(MODALITIES[one].many for one in MODALITIES if one in served)
            problems.append(f"{where}tuner: {info.name} tunes on {known}, {config.base} reads {reads.many}")
            continue
        try:
            objective = stage.objective.name
            objective = pick(kind, family, provides) if objective == "auto" else objective
            if fault := misfit(objective, kind, family, provides):
                problems.append(f"{where}objective: {fault}")
            registry.build("objectives", objective, stage.objective.settings)
            chosen.append(objective)
        except ConfigError as error:
            problems += [f"{where}objective.{problem}" for problem in error.problems]
        except InputError as error:
            problems.append(f"{where}objective: {error}")
    if problems:
        raise ConfigError(problems, "the combination")
    return chosen


def _misplaced(config: RunConfig, number: int, stage: RunConfig) -> list[str]:
    """What is wrong with the place of a stage's tuner among the stages."""
    rewinds = bool(config.stages) and config.stages[number].rewind
    if rewinds and not number:
        return ["rewind: there is no stage before the first one"]
    fault = registry.build("tuners", stage.tuner.name, stage.tuner.settings).misplaced(rewinds)
    return [f"tuner: {fault}"] if fault else []


def _in_step(pair: Pair) -> None:
    """With several processes: wait until all have loaded, so that the first one has prepared the folder."""
    if folders.process()[1] > 1:
        from accelerate import PartialState

        PartialState(cpu=pair.base.device.type == "cpu").wait_for_everyone()
