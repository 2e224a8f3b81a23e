"""Merges that are killed, stopped or out of room: what is left is nothing or whole, and the same call goes on."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
from tests.merging.models import moved

from pairtune.errors import DiskFull, RunLocked
from pairtune.merging.engine import writer
from pairtune.merging.engine.run import merge
from pairtune.pair.complete import is_complete
from pairtune.pair.lock import RunLock


@pytest.fixture
def models(tiny_llama, tmp_path):
    return [moved(tiny_llama, tmp_path / name, seed) for seed, name in enumerate("ab")]


def run(models, out, **more):
    return merge(models, out, "ties", {"density": 0.5}, base=models[0], threads=1, check=False, **more)


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("model*")}


def in_child(work) -> int:
    """Run `work` in a forked child; its exit status as `os.waitpid` gives it."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(process, 0)[1]


def kill_at_write(number: int) -> None:
    """Kill this process in the middle of its n-th write of a tensor's bytes: half of them reach the file."""
    real, left = os.pwrite, number

    def half(descriptor, data, at):
        nonlocal left
        left -= 1
        if left == 0:
            real(descriptor, bytes(data)[: len(data) // 2], at)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(descriptor, data, at)

    os.pwrite = half


@pytest.mark.parametrize("most", ["5GB", "6KB"])
def test_killed_in_the_middle_it_goes_on_and_the_bytes_are_the_same(models, tmp_path, most):
    whole = weights(run(models, tmp_path / "whole", max_shard_size=most).folder)
    assert (len(whole) > 1) == (most == "6KB")
    out, continued = tmp_path / "out", []
    for number in (1, 2, 9, 20, 33):

        def work(number: int = number) -> None:
            kill_at_write(number)
            run(models, out, max_shard_size=most)

        status = in_child(work)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert not out.exists()
        done = run(models, out, max_shard_size=most)
        assert weights(out) == whole
        assert is_complete(out)
        continued.append(done.card["continued"])
        shutil.rmtree(out)
    assert continued[0] == 0 and continued[-1] > 15
    assert sorted(continued) == continued
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_bytes_that_changed_meanwhile_are_made_again(models, tmp_path):
    whole = weights(run(models, tmp_path / "whole").folder)
    out = tmp_path / "out"
    in_child(lambda: (kill_at_write(30), run(models, out)))
    file = tmp_path / ".out.unfinished" / "model.safetensors"
    content = bytearray(file.read_bytes())
    journal = (tmp_path / ".out.unfinished" / writer.JOURNAL).read_text().splitlines()
    content[-5] ^= 1  # in the tensor that lies last: its hash no longer fits
    for at in range(len(content) // 2, len(content) // 2 + 64):
        content[at] ^= 1
    file.write_bytes(content)
    done = run(models, out)
    assert weights(out) == whole
    assert 0 < done.card["continued"] < len(journal) - 1


def test_another_merge_does_not_continue_it(models, tmp_path):
    out = tmp_path / "out"
    in_child(lambda: (kill_at_write(20), run(models, out)))
    assert (tmp_path / ".out.unfinished").exists()
    done = merge(models, out, "ties", {"density": 0.6}, base=models[0], check=False)
    assert done.card["continued"] == 0
    assert weights(out) == weights(merge(models, tmp_path / "x", "ties", {"density": 0.6}, base=models[0]).folder)


def test_an_input_that_changed_is_read_again(models, tmp_path):
    out = tmp_path / "out"
    in_child(lambda: (kill_at_write(20), run(models, out)))
    os.utime(models[1] / "model.safetensors", ns=(1, 1))
    assert run(models, out).card["continued"] == 0


@pytest.mark.parametrize("replaces", [False, True])
def test_a_full_disk_shows_before_any_work_and_leaves_nothing(models, tmp_path, replaces):
    out = tmp_path / "out"
    before = weights(run(models, out).folder) if replaces else None
    size = (models[0] / "model.safetensors").stat().st_size

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with pytest.raises(DiskFull, match=r"bytes are needed, [\d,]+ bytes are free"):
            merge(models, out, check=False)

    assert in_child(work) == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert out.exists() == replaces
    if replaces:
        assert weights(out) == before


def test_ctrl_c_keeps_what_there_is(models, tmp_path, monkeypatch):
    real, left = writer.Writer.put, 12

    def stopped(self, name, pieces):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        real(self, name, pieces)

    monkeypatch.setattr(writer.Writer, "put", stopped)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on from there"):
        run(models, tmp_path / "out")
    monkeypatch.undo()
    assert run(models, tmp_path / "out").card["continued"] >= 11


def test_two_merges_into_one_folder(models, tmp_path):
    with RunLock(tmp_path / "out"), pytest.raises(RunLocked):
        run(models, tmp_path / "out")
