"""Who is alive: one run a folder, and which leftovers belong to a process that is gone.

Every question is answered by `flock`, never by a process id: the kernel gives a lock back when its holder dies, however
it dies, while a process id may be reused, or belong to another container that shares the disk.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pairtune.errors import InputError, RunLocked

_BUSY = (errno.EWOULDBLOCK, errno.EACCES)


class RunLock:
    """A context manager that lets one process at a time work in a folder.

    The lock is a file beside the folder, `.<name>.lock`, so that the folder itself may be replaced meanwhile; its text
    says who holds it, and it is removed at the end. Raises `RunLocked` naming the holder's process id, host and start,
    `InputError` where the place cannot be written or its file system has no locks.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(os.path.realpath(folder))
        self.path = self.folder.with_name(f".{self.folder.name}.lock")
        self._held: tuple[int, int] | None = None  # descriptor, and the process that took it

    def __enter__(self) -> RunLock:
        while (descriptor := self._take()) is None:
            pass  # the last holder removed the file after it was opened here
        since = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        about = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        with suppress(OSError):  # the text only serves the message; a full disk does not make the lock less held
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(about).encode(), 0)
        self._held = (descriptor, os.getpid())
        return self

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            descriptor, owner = self._held
            self._held = None
            # Not in a forked child that leaves its copy of the block: the lock is its parent's.
            if owner == os.getpid() and self._is_named(descriptor):
                self.path.unlink(missing_ok=True)
            os.close(descriptor)

    def _take(self) -> int | None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise InputError(f"cannot lock {self.folder}: {error.strerror}; choose another folder") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            if error.errno in _BUSY:
                raise RunLocked(_busy_message(self.folder, holder)) from None
            raise InputError(
                f"cannot lock {self.folder}: its file system has no file locks ({error.strerror}); "
                "choose a folder on a local disk"
            ) from None
        if self._is_named(descriptor):
            return descriptor
        os.close(descriptor)
        return None

    def _is_named(self, descriptor: int) -> bool:
        """Whether the open file is still the one that the lock's name leads to."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.stat(self.path), os.fstat(descriptor))
        return False


def _busy_message(folder: Path, text: bytes) -> str:
    try:
        about = json.loads(text)
        pid, host, since = int(about["pid"]), str(about["host"]), str(about["since"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{folder} is in use by another run; wait for it, or choose another folder"
    who = f"process {pid} on {host}, since {since}"
    if host == socket.gethostname() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
        return f"{folder} is in use: its run ({who}) is gone, but a child that it started still lives; end that child"
    return f"{folder} is in use by another run ({who}); wait for it, or choose another folder"


def claim(path: Path, *, folder: bool) -> int:
    """Create `path`, a new file or folder, and hold its lock until the returned descriptor is closed.

    A sweep that finds the lock free takes the path for a leftover. On a file system without locks no lock is held, and
    a sweep then leaves everything alone.
    """
    while True:
        if folder:
            path.mkdir()
            flags = os.O_RDONLY | os.O_DIRECTORY
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags, 0o666)
        except FileNotFoundError:
            if not folder or not path.parent.exists():
                raise  # some file systems (/proc) answer so where nothing can be created
            continue  # a sweep came between the two lines
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            return descriptor
        os.close(descriptor)  # a sweep had the lock first and removed the path


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Whether nobody holds the claim on `path`; while the block runs, nobody else can take it for abandoned too."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
