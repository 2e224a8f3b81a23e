"""Folders that appear whole: built beside their place, synced, marked complete, and then renamed.

A crash at any instant leaves the old folder or the new one. Where the system can exchange two names in one step (Linux)
there is no moment without either; elsewhere the old one is renamed aside first, and `recover` finishes what a crash
interrupted between the two renames.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pairtune.errors import FormatError, InputError
from pairtune.pair.complete import is_complete, listed, newest_complete, seal, verify
from pairtune.pair.disk import hidden_beside, sync_folder, writing
from pairtune.pair.lock import RunLock, abandoned, claim

__all__ = [
    "check_replaceable", "check_writable", "is_complete", "newest_complete", "recover", "resumable_folder",
    "staged_folder", "verify",
]  # fmt: skip

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<role>staging|old|tmp)-\d+-[0-9a-f]{8}", re.DOTALL)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def check_writable(folder: str | Path) -> Path:
    """Make sure, by writing, that files can be created in `folder` (made if missing); for the start of long work.

    Raises `InputError` for a folder that is read-only, gone, or not a folder.
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = hidden_beside(folder / "probe", "tmp")
        try:
            os.close(claim(probe, folder=False))
        finally:
            probe.unlink(missing_ok=True)
    return folder


@contextmanager
def staged_folder(target: str | Path, replace: bool = True) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place when the block ends without an error.

    `replace` lets it take the place of a folder that pairtune wrote; any other content is never removed. Before the
    block starts, raises `InputError` where that cannot be, or where the place cannot be written. When the block or the
    disk fails, everything written is removed and the old folder is as it was; a full disk raises `DiskFull`.
    """
    target = Path(os.path.realpath(target))
    check_writable(target.parent)
    check_replaceable(target, replace)
    staging = hidden_beside(target, "staging")
    with writing(target):
        held = claim(staging, folder=True)
    try:
        with writing(target, only_full=True):
            yield staging
        with writing(target):
            seal(staging)
            check_replaceable(target, replace)
            _put_in_place(staging, target)
    finally:
        os.close(held)
        shutil.rmtree(staging, ignore_errors=True)  # after an exchange, this is the old folder


@contextmanager
def resumable_folder(target: str | Path, replace: bool = True) -> Iterator[tuple[Path, dict[str, Any]]]:
    """As `staged_folder`, for work that a later call goes on with: what an interrupted one wrote is still there.

    Yields the folder `.<name>.unfinished` and a mapping for descriptions of files, by which they are not hashed again
    (see `complete.seal`). It stays when the process is killed or stopped with Ctrl-C; any error removes it. One process
    at a time works for a target: others raise `RunLocked`.
    """
    target = Path(os.path.realpath(target))
    check_writable(target.parent)
    check_replaceable(target, replace)
    unfinished, known = target.with_name(f".{target.name}.unfinished"), {}
    with RunLock(target), writing(target, only_full=True):
        try:
            with writing(target):
                unfinished.mkdir(exist_ok=True)
            yield unfinished, known
            with writing(target):
                seal(unfinished, known)
                check_replaceable(target, replace)
                _put_in_place(unfinished, target)
        except Exception:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        shutil.rmtree(unfinished, ignore_errors=True)  # after an exchange, this is the old folder


def check_replaceable(target: Path, replace: bool = True) -> None:
    """Raise `InputError` where a folder cannot take this place: a file, or content that pairtune did not save there."""
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise InputError(f"{target}: a file is in the place of the folder to be written; choose another name")
    present = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    if not present:
        return
    if not replace:
        raise InputError(f"{target} exists already; choose another name")
    try:
        foreign = sorted(present - listed(target))
    except FormatError:
        foreign = sorted(present)
    if foreign:
        raise InputError(
            f"{target} holds files that pairtune did not save there ({', '.join(foreign[:3])}); they would be lost: "
            "choose another folder, or move them away"
        )


def _put_in_place(staging: Path, target: Path) -> None:
    if not os.path.lexists(target):
        os.rename(staging, target)
    elif not _exchange(staging, target):
        old = hidden_beside(target, "old")
        try:
            os.rename(target, old)
            os.rename(staging, target)
        except BaseException:  # Ctrl-C between the two as well
            if old.exists() and not target.exists():
                os.rename(old, target)
            raise
        sync_folder(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    sync_folder(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    return call is not None and call(*names, _RENAME_EXCHANGE) == 0


def recover(parent: str | Path) -> list[str]:
    """Finish or undo what a crash left in a folder, and sweep its leftovers; for the start of work in it.

    What a live process is writing is left alone. Returns one line for each folder or file that was put back or removed.
    """
    parent = Path(parent)
    groups: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(parent.iterdir()) if parent.is_dir() else []:
        if match := _LEFTOVER.fullmatch(path.name):
            groups[match["name"]][match["role"]].append(path)
    done = []
    for name, roles in sorted(groups.items()):
        with ExitStack() as stack:
            # All of a group or nothing: while a live process saves under this name, what lies there may be its own.
            if all(stack.enter_context(abandoned(path)) for paths in roles.values() for path in paths):
                done += _settle(parent / name, roles["staging"], roles["old"], roles["tmp"])
    return done


def _settle(target: Path, stagings: list[Path], olds: list[Path], partial_files: list[Path]) -> list[str]:
    done = []
    if olds and not os.path.lexists(target):  # the crash came between the two renames
        ready = [path for path in stagings if is_complete(path)]
        chosen = max(ready or olds, key=lambda path: path.stat().st_mtime_ns)
        os.rename(chosen, target)
        sync_folder(target.parent)
        done.append(
            f"{target}: put {'the new folder' if chosen in stagings else 'the old folder'} in place after a crash"
        )
    for path in [*stagings, *olds]:
        if path.exists():
            shutil.rmtree(path, ignore_errors=True)
            done.append(f"{path}: removed, an interrupted save")
    for path in partial_files:
        path.unlink(missing_ok=True)
        done.append(f"{path}: removed, an interrupted write")
    return done
