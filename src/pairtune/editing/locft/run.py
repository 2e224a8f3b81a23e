"""A run of the loop: progress on stderr, a checkpoint now and then, and one when it is stopped."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.editing.locft.loop import State
from pairtune.errors import ResumeMismatch
from pairtune.pair.complete import newest_complete
from pairtune.pair.files import open_safetensors, read_json, write_json, write_safetensors
from pairtune.pair.staging import staged_folder
from pairtune.training.progress import duration
from pairtune.training.resume import LOOP_FILE, differences
from pairtune.training.signals import Signals, Stopped

if TYPE_CHECKING:
    from pairtune.editing.locft.loop import Loop

log = logging.getLogger("pairtune")
STATE_FILE = "state.safetensors"
SAVE_EVERY = 60.0  # seconds
SAY_EVERY = 20.0  # seconds between lines of the log, where stderr is no terminal


def run(loop: Loop, work: Path, identity: dict[str, Any]) -> State:
    """Run until the loop is over; what the folder holds of the same run is continued.

    Raises `Stopped` after Ctrl-C or SIGTERM, with a checkpoint of the last step; `ResumeMismatch` where the folder
    holds a run of other settings, data or base.
    """
    _continue(loop, work, identity)
    saved = time.monotonic()
    with Signals() as signals, _Bar(loop) as bar:
        while not loop.state.over:
            loop.step()
            bar.show()
            if signals.received is not None:
                break
            if time.monotonic() - saved > SAVE_EVERY:
                _save(loop, work, identity)
                saved = time.monotonic()
    if not loop.state.over:
        kept = _save(loop, work, identity)
        message = f"stopped after {loop.state.updates:,} updates; {kept} is kept, --resume continues"
        raise Stopped(message, signals.received or 0)
    return loop.state


def _save(loop: Loop, work: Path, identity: dict[str, Any]) -> Path:
    """Write the checkpoint of what was done so far, then remove the ones before it."""
    state = loop.state
    folder = work / f"checkpoint-{state.steps + state.skipped}"
    with staged_folder(folder) as staging:
        write_safetensors(staging / STATE_FILE, {k: v.contiguous() for k, v in loop.master.state().items()}, {})
        write_json(staging / LOOP_FILE, {"state": asdict(state), "identity": identity})
    for old in work.glob("checkpoint-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def _continue(loop: Loop, work: Path, identity: dict[str, Any]) -> None:
    found = newest_complete(work, "checkpoint-*")
    if found is None:
        return
    stored = read_json(found / LOOP_FILE)
    if changed := differences(stored["identity"], identity):
        listing = "\n".join(f"  - {line}" for line in changed)
        raise ResumeMismatch(f"{found} was written by another run:\n{listing}\n--restart replaces it")
    opened = open_safetensors(found / STATE_FILE)
    loop.master.load_state({name: opened.tensor(name).clone() for name in opened})
    loop.state = State(**stored["state"])
    log.info("continuing from %s (%d updates)", found.name, loop.state.updates)


class _Bar:
    """Epochs or edits done, the last loss, the time left."""

    def __init__(self, loop: Loop):
        self._loop, self._bar = loop, None
        self._start, self._first, self._said = time.monotonic(), self._done, time.monotonic()
        self._total = loop.rounds * (1 if loop.depth_first else loop.epochs)
        if sys.stderr.isatty():
            from tqdm import tqdm

            unit = "edit" if loop.depth_first else "batch"
            self._bar = tqdm(total=self._total, initial=self._first, desc="edit", unit=unit, file=sys.stderr)

    @property
    def _done(self) -> int:
        state = self._loop.state
        return state.at if self._loop.depth_first else state.round * self._loop.rounds + state.at

    def show(self) -> None:
        state, done = self._loop.state, self._done
        loss = f"epoch {state.round}, loss {state.curve[-1]:.4f}" if state.curve else f"{state.updates:,} updates"
        if self._bar is not None:
            self._bar.set_postfix_str(loss, refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._said > SAY_EVERY:
            self._said = time.monotonic()
            left = (self._said - self._start) / max(done - self._first, 1) * (self._total - done)
            log.info("edit: %d of %d, at most %s left, %s", done, self._total, duration(left), loss)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
