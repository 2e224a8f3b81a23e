"""Whether a checkpoint may be continued: the run must be the one that wrote it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pairtune.errors import FormatError, InputError, ResumeMismatch
from pairtune.pair.complete import newest_complete, verify
from pairtune.pair.files import read_json

log = logging.getLogger("pairtune")
LOOP_FILE = "loop.json"
RANDOM_FILE = "random.safetensors"


def differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """One line for each value that is not the same, `where: before → now`, through nested mappings."""
    lines = []
    for key in sorted(before.keys() | now.keys()):
        where = f"{path}{key}"
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{where}.")
        elif old != new:
            lines.append(f"{where}: {_short(old)} → {_short(new)}")
    return lines


def find(run_folder: Path, wanted: bool | str | Path) -> Path | None:
    """The checkpoint to continue: a given folder, or the newest complete one of the run; None if it has none yet.

    Says so when a newer folder is passed over because its saving was interrupted.
    """
    if not isinstance(wanted, bool):
        folder = Path(wanted)
        if not (folder / LOOP_FILE).is_file():
            raise InputError(f"{folder}: no checkpoint is here; expected a folder checkpoint-<step> with {LOOP_FILE}")
        return folder
    newest = newest_complete(run_folder, "checkpoint-*")
    later = [path for path in run_folder.glob("checkpoint-*") if step_of(path) > (step_of(newest) if newest else -1)]
    for path in sorted(later):
        log.warning("%s is not complete (interrupted or changed) and is passed over", path.name)
    return newest


def step_of(folder: Path) -> int:
    """The optimizer step that a checkpoint's name says; −1 for other names."""
    digits = folder.name.removeprefix("checkpoint-")
    return int(digits) if digits.isdigit() else -1


def check(folder: Path, identity: Mapping[str, Any], allow_drift: bool) -> dict[str, Any]:
    """Read a checkpoint's loop state once its files are proven whole and its run proven the same.

    With `allow_drift`, differences (and a missing random state) are accepted, said loudly, and recorded under "drift".

    Raises `FormatError` for a damaged checkpoint, `ResumeMismatch` listing every difference.
    """
    try:
        verify(folder)
        damage = []
    except FormatError as error:
        lost = [] if (folder / RANDOM_FILE).is_file() else ["the random state is missing: dropout will differ"]
        others = [part for part in str(error).split("since it was saved: ")[-1].split("; ") if RANDOM_FILE not in part]
        if others or not lost:
            raise
        damage = lost
    loop = read_json(folder / LOOP_FILE)
    found = damage + differences(loop["identity"], identity)
    if found and not allow_drift:
        listing = "\n".join(f"  - {line}" for line in found)
        raise ResumeMismatch(
            f"{folder.name} was written by another run:\n{listing}\n--allow-drift continues all the same and records it"
        )
    for line in found:
        log.warning("DRIFT at %s: %s", folder.name, line)
    loop["drift"] = [*loop.get("drift", []), *(f"step {step_of(folder)}: {line}" for line in found)]
    return loop


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
