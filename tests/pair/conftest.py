"""Tools for real faults: children that are forked and die, and a watch on which files are opened."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

_audited: list[str] | None = None
_IN_ACCESS, _IN_OPEN = 0x1, 0x20  # linux/inotify.h


def _audit(event: str, arguments: tuple) -> None:
    if event == "open" and _audited is not None:
        _audited.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else str(arguments[0]))


@pytest.fixture(scope="session")
def _hook() -> None:
    sys.addaudithook(_audit)  # cannot be removed, hence once


@pytest.fixture
def opened_in(_hook) -> Callable[[Path], AbstractContextManager[list[str]]]:
    """Record every file of a folder that is opened: by Python (audit hook) and by compiled code (inotify)."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "inotify_init1"):
        pytest.skip("this system has no inotify to see files that compiled code opens")

    @contextmanager
    def watch(folder: Path) -> Iterator[list[str]]:
        global _audited
        found: list[str] = []
        descriptor = libc.inotify_init1(os.O_NONBLOCK)
        assert descriptor >= 0
        assert libc.inotify_add_watch(descriptor, os.fsencode(folder), _IN_OPEN | _IN_ACCESS) >= 0
        _audited = []
        try:
            yield found
        finally:
            audited, _audited = _audited, None
            real = Path(os.path.realpath(folder))
            found += [path for path in audited if Path(os.path.realpath(path)).is_relative_to(real)]
            try:
                events = os.read(descriptor, 1 << 16)
            except BlockingIOError:
                events = b""
            os.close(descriptor)
            while events:
                _, _, _, length = struct.unpack_from("iIII", events)
                found.append(events[16 : 16 + length].rstrip(b"\0").decode() or ".")
                events = events[16 + length :]

    return watch


@pytest.fixture
def forked() -> Iterator[Callable[[Callable[[], object]], int]]:
    """Run a function in a forked child and return its process id at once; children left at the end are killed."""
    children: list[int] = []

    def fork(function: Callable[[], object]) -> int:
        child = os.fork()
        if child == 0:
            try:
                function()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
        return child

    yield fork
    for child in children:
        try:
            os.kill(child, 9)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


@pytest.fixture
def in_child(forked) -> Callable[[Callable[[], object]], None]:
    """Run a function in a forked child and wait; the test fails where the child raised."""

    def run(function: Callable[[], object]) -> None:
        _, status = os.waitpid(forked(function), 0)
        assert os.waitstatus_to_exitcode(status) == 0, "the child failed; its traceback is above"

    return run
