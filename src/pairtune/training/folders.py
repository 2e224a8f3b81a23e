"""Where a run lives: `<out>` is the finished pair, whole or not there; `<out>.run` holds what it is made in.

<out>.run/  .run.lock  checkpoint-<step>/ ...                 (of a recipe: stage-1/checkpoint-<step>/, stage-2/ ...)
            delta/                                            what a finished stage left, to continue after it
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pairtune.errors import InputError
from pairtune.pair.complete import is_complete
from pairtune.pair.lock import RunLock
from pairtune.pair.staging import check_writable, recover
from pairtune.training import resume

log = logging.getLogger("pairtune")
SWEEP, SEEDS = ".sweep", ".seeds"  # where the runs of a sweep, and those of several seeds, stand beside `out`


def process() -> tuple[int, int]:
    """(rank, number of processes), as torchrun and accelerate tell them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def own_device() -> str | None:
    """With several processes and accelerators, each process has its own; None leaves the choice to the base."""
    import torch

    several = process()[1] > 1 and torch.cuda.is_available()
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if several else None


@contextmanager
def work_folder(out: Path | None, stages: int, *, continuing: bool, restart: bool) -> Iterator[Path]:
    """The folder to work in, locked while inside; a temporary one where `out` is None.

    With several processes, the first one holds the lock. Raises `RunLocked` when another run works there, and
    `InputError` where the place cannot be written, holds a finished pair, or holds an unfinished run that is neither to
    be continued nor to be started again.
    """
    rank, world = process()
    if out is None:
        if world > 1:
            raise InputError("out: name a folder for the pair; several processes share it")
        with tempfile.TemporaryDirectory(prefix="pairtune-") as folder:
            yield Path(folder)
        return
    work = out.with_name(f"{out.name}.run")
    if rank:
        yield work
        return
    check_writable(out.parent)
    with RunLock(work):
        for line in [*recover(out.parent), *recover(work)]:
            log.info("%s", line)
        if restart:
            clear(work)
        elif not continuing:
            _refuse_what_is_there(out, work, stages)
        yield work


def stage_folder(work: Path, stage: int, stages: int) -> Path:
    """The folder of one stage (from 0); a run of one stage uses the work folder itself."""
    return work / f"stage-{stage + 1}" if stages > 1 else work


def cache_folder(stage: Path) -> Path:
    """Where a stage keeps activations of the frozen base; runs beside one another share them."""
    return (stage.parent if stage.parent.name.endswith((SWEEP, SEEDS)) else stage) / "activations"


def clear(work: Path) -> None:
    """Remove what an earlier run left: its checkpoints and stages, nothing else."""
    for folder in [*work.glob("checkpoint-*"), *work.glob("stage-*"), work / "delta"]:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_what_is_there(out: Path, work: Path, stages: int) -> None:
    if is_complete(out):
        raise InputError(f"{out} holds a finished pair; choose another --out, or --restart to replace it")
    for stage in reversed(range(stages)):
        folder = stage_folder(work, stage, stages)
        found = resume.find(folder, True) if folder.is_dir() else None
        if found is not None or is_complete(folder / "delta"):
            where = "after a stage" if found is None else f"at step {resume.step_of(found)}"
            raise InputError(f"{work} holds an unfinished run ({where}): --resume continues it, --restart starts again")
