"""One run a folder: a living holder is named, a dead one does not matter, and leftovers are told from work."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from pairtune.errors import InputError, RunLocked
from pairtune.pair.lock import RunLock, abandoned, claim


@pytest.fixture
def holder(tmp_path, forked):
    """The process id of another process that holds the lock of `run`."""
    ready, report = os.pipe()

    def hold() -> None:
        with RunLock(tmp_path / "run"):
            os.write(report, b"x")
            time.sleep(60)

    child = forked(hold)
    os.read(ready, 1)
    yield child
    os.close(ready)
    os.close(report)


def test_a_second_process_is_refused_and_told_who_holds_the_lock(tmp_path, holder):
    for _ in range(2):
        with pytest.raises(RunLocked, match=f"run is in use .*process {holder} on {socket.gethostname()}, since 20"):
            RunLock(tmp_path / "run").__enter__()
    with RunLock(tmp_path / "another"):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path, holder):
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    lock_file = tmp_path / ".run.lock"
    assert json.loads(lock_file.read_text())["pid"] == holder
    # Its id may belong to another process by now: here to this very one.
    lock_file.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": "2026-01-01"}))
    with RunLock(tmp_path / "run"):
        assert json.loads(lock_file.read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_two_runs_of_one_process_exclude_each_other_too(tmp_path):
    with RunLock(tmp_path / "run"):
        with pytest.raises(RunLocked, match=str(os.getpid())):
            RunLock(tmp_path / "run").__enter__()
        with pytest.raises(RunLocked):  # the refused one took nothing away
            RunLock(tmp_path / "." / "run").__enter__()
    with RunLock(tmp_path / "run"):
        pass


def test_an_error_in_the_run_frees_the_lock(tmp_path):
    with pytest.raises(ValueError, match="stop"), RunLock(tmp_path / "run"):
        raise ValueError("stop")
    with RunLock(tmp_path / "run"):
        pass


def test_a_forked_child_that_leaves_the_block_does_not_free_its_parents_lock(tmp_path, in_child):
    with RunLock(tmp_path / "run") as lock:
        in_child(lambda: lock.__exit__(None, None, None))
        with pytest.raises(RunLocked):
            RunLock(tmp_path / "run").__enter__()


def test_the_folder_may_be_replaced_while_it_is_locked(tmp_path):
    (tmp_path / "run").mkdir()
    with RunLock(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "old")
        (tmp_path / "run").mkdir()
        with pytest.raises(RunLocked):
            RunLock(tmp_path / "run").__enter__()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc to see that a process is gone")
def test_a_child_that_outlives_its_run_is_named_as_the_reason(tmp_path, forked):
    ready, report = os.pipe()

    def run_and_die() -> None:
        RunLock(tmp_path / "run").__enter__()
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        os.write(report, child.to_bytes(4, "little"))

    os.waitpid(forked(run_and_die), 0)
    child = int.from_bytes(os.read(ready, 4), "little")
    try:
        with pytest.raises(RunLocked, match="is gone, but a child that it started still lives"):
            RunLock(tmp_path / "run").__enter__()
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff" * 5000, b"[" * 4000])
def test_a_damaged_lock_file_is_locked_all_the_same(tmp_path, text):
    with RunLock(tmp_path / "run") as lock:
        lock.path.write_bytes(text)
        with pytest.raises(RunLocked, match="in use by another run"):
            RunLock(tmp_path / "run").__enter__()


def test_a_lock_is_not_written_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("x")
    (tmp_path / ".run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="cannot lock"):
        RunLock(tmp_path / "run").__enter__()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot lock"):
        RunLock(tmp_path / "file" / "run").__enter__()
    assert (tmp_path / "precious").read_text() == "x"


def test_many_processes_never_hold_the_lock_together(tmp_path, forked):
    """Holders that come and go remove the file each time: nobody may be left with a lock on a removed one."""
    log = tmp_path / "log"

    def compete() -> None:
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            try:
                with RunLock(tmp_path / "run"):
                    inside = os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL)  # fails if anybody else is inside
                    os.close(inside)
                    os.unlink(tmp_path / "inside")
            except RunLocked:
                continue
        with log.open("a") as file:
            file.write("x")

    for child in [forked(compete) for _ in range(4)]:
        os.waitpid(child, 0)
    assert log.read_text() == "xxxx"


@pytest.mark.parametrize("folder", [True, False])
def test_a_claim_is_abandoned_when_its_process_is_gone(tmp_path, forked, folder):
    path = tmp_path / "claimed"
    os.waitpid(forked(lambda: claim(path, folder=folder)), 0)
    with abandoned(path) as first, abandoned(path) as second:
        assert (first, second) == (True, False)  # two sweeps do not both take it
    path.rmdir() if folder else path.unlink()
    descriptor = claim(path, folder=folder)
    with abandoned(path) as lonely:
        assert not lonely
    os.close(descriptor)
    with abandoned(tmp_path / "absent") as lonely:
        assert not lonely


def test_a_claim_that_a_sweep_took_first_is_made_again(tmp_path):
    """Claiming is making and then locking; a sweep between the two must not leave the claimer without its folder."""
    path, stop = tmp_path / "claimed", threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            with abandoned(path) as lonely:
                if lonely:
                    path.rmdir()

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for _ in range(100):
            descriptor = claim(path, folder=True)
            assert path.is_dir()
            os.close(descriptor)
            while path.exists():
                pass
    finally:
        stop.set()
        sweeper.join()
