"""SIGKILL while saving: at each step in turn, and at random instants; what is left is the old folder or the new one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pairtune.pair import staging
from pairtune.pair.files import open_safetensors, read_json, write_json, write_safetensors
from pairtune.pair.staging import is_complete, newest_complete, recover, staged_folder, verify

STEPS = ("open", "os.", "shutil.", "ctypes.dlsym")  # audited events that change the disk or come right before


def save(target: Path, value: int) -> None:
    with staged_folder(target) as folder:
        (folder / "stack").mkdir()
        write_safetensors(folder / "stack" / "0.safetensors", {"a": torch.full((64,), value)})
        write_json(folder / "pair.json", {"value": value})


def value_of(folder: Path) -> int:
    """The value in a folder, once it is sure that the folder is whole and of one save."""
    verify(folder)
    value = read_json(folder / "pair.json")["value"]
    assert set(open_safetensors(folder / "stack" / "0.safetensors").tensor("a").tolist()) == {value}
    return value


def hidden(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


@pytest.fixture
def exchanges(request, monkeypatch) -> bool:
    """Whether this system can exchange two names in one step; where not, the old folder is renamed aside first."""
    if not request.param:
        monkeypatch.setattr(staging, "_exchange", lambda one, other: False)
    return request.param


BOTH = pytest.mark.parametrize("exchanges", [True, False], indirect=True, ids=["exchange", "two renames"])


@pytest.fixture
def quick_disk(tmp_path) -> Iterator[Path]:
    """A folder in memory where there is one: a kill does not depend on the disk, and syncing takes most of the time."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory)) if os.access(memory, os.W_OK) else tmp_path
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "exchanges, first_save",
    [(True, True), (True, False), (False, False)],
    indirect=["exchanges"],
    ids=["first save", "exchange", "two renames"],
)
def test_killed_before_every_step_of_a_save(quick_disk, forked, exchanges, first_save):
    target = quick_disk / "out"
    outcomes, outcome, finished = set(), None, False
    for step in range(1, 200):
        if not first_save and outcome != 1:
            save(target, 1)

        def child(step: int = step) -> None:
            left = step

            def kill_at_zero(event: str, _) -> None:
                nonlocal left
                if event.startswith(STEPS):
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(kill_at_zero)
            save(target, 2)

        _, status = os.waitpid(forked(child), 0)
        finished = os.WIFEXITED(status)
        assert finished or os.WTERMSIG(status) == signal.SIGKILL
        if exchanges and not first_save:
            assert is_complete(target), "with an exchange there is no moment without a whole folder"
        recover(quick_disk)
        outcome = value_of(target) if target.exists() else None
        outcomes.add(outcome)
        assert hidden(quick_disk) == []
        if finished:
            break
        if first_save and target.exists():
            shutil.rmtree(target)
    assert finished
    assert step > 20, "the kill should have come at many different steps"
    assert outcomes == ({None, 2} if first_save else {1, 2})


@BOTH
@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_killed_at_a_random_instant_the_newest_checkpoint_is_whole(tmp_path, forked, exchanges, kills):
    rng, last = random.Random(kills), 0
    for _ in range(kills):
        ready, report = os.pipe()

        def child(start: int = last, report: int = report) -> None:
            for value in range(start + 1, start + 10_000):
                save(tmp_path / f"checkpoint-{value % 3}", value)
                os.write(report, value.to_bytes(4, "little"))

        process = forked(child)
        os.close(report)
        os.read(ready, 4)  # the first save is done
        time.sleep(rng.uniform(0, 0.08))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        reported = [last + 1]
        while data := os.read(ready, 4):
            reported.append(int.from_bytes(data, "little"))
        os.close(ready)

        before = newest_complete(tmp_path, "checkpoint-*")
        assert before is not None
        assert value_of(before) >= reported[-1] - (not exchanges)
        recover(tmp_path)
        newest = newest_complete(tmp_path, "checkpoint-*")
        assert newest is not None
        last = value_of(newest)
        assert last in (reported[-1], reported[-1] + 1)
        assert hidden(tmp_path) == []


def test_a_crash_between_two_renames_is_finished(tmp_path, forked, monkeypatch):
    """The one moment in which neither folder has its name, on systems without an exchange."""
    monkeypatch.setattr(staging, "_exchange", lambda one, other: False)
    save(tmp_path / "out", 1)

    def child() -> None:
        rename = os.rename

        def second_kills(source, target) -> None:
            if ".staging-" in str(source):
                os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target)

        os.rename = second_kills
        save(tmp_path / "out", 2)

    os.waitpid(forked(child), 0)
    assert sorted(name.split("-")[0] for name in hidden(tmp_path)) == [".out.old", ".out.staging"]
    assert recover(tmp_path)[0].endswith("put the new folder in place after a crash")
    assert value_of(tmp_path / "out") == 2
    assert hidden(tmp_path) == []

    os.waitpid(forked(child), 0)
    (next(tmp_path.glob(".out.staging-*")) / "COMPLETE").unlink()  # as if the disk had lost its last write
    assert recover(tmp_path)[0].endswith("put the old folder in place after a crash")
    assert value_of(tmp_path / "out") == 2
    assert hidden(tmp_path) == []
