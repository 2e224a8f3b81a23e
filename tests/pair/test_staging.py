"""Staged folders without a crash: whole or not at all, marked, verified, and never over somebody's files."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from pairtune.errors import DiskFull, FormatError, InputError
from pairtune.pair import staging
from pairtune.pair.files import open_safetensors, write_json, write_safetensors
from pairtune.pair.staging import check_writable, is_complete, newest_complete, recover, staged_folder, verify


def save(target: Path, value: float = 1.0) -> Path:
    """A small saved folder: two weights files, one of them deeper, a manifest and a model card."""
    with staged_folder(target) as folder:
        write_safetensors(folder / "delta.safetensors", {"a": torch.full((3,), value), "b": torch.zeros(4)})
        (folder / "stack").mkdir()
        write_safetensors(folder / "stack" / "0.safetensors", {"a": torch.full((2,), value)})
        write_json(folder / "pair.json", {"value": value})
        (folder / "README.md").write_text("words")
    return target


def value_of(folder: Path) -> float:
    return open_safetensors(folder / "delta.safetensors").tensor("a")[0].item()


@pytest.fixture(params=["exchange", "two renames"])
def any_system(request, monkeypatch):
    """Systems that can exchange two names in one step, and those that cannot."""
    if request.param == "two renames":
        monkeypatch.setattr(staging, "_exchange", lambda one, other: False)


def test_a_folder_appears_whole(tmp_path, any_system):
    with staged_folder(tmp_path / "new" / "out") as folder:
        (folder / "x").write_text("x")
        assert not (tmp_path / "new" / "out").exists()
        assert folder.parent == tmp_path / "new"  # beside the target, hence on its file system
        assert folder.stat().st_dev == (tmp_path / "new").stat().st_dev
    assert is_complete(tmp_path / "new" / "out")
    verify(tmp_path / "new" / "out")
    assert os.listdir(tmp_path / "new") == ["out"]


def test_a_folder_is_replaced_whole(tmp_path, any_system):
    save(tmp_path / "out", 1)
    with staged_folder(tmp_path / "out") as folder:
        (folder / "other").write_text("x")
        assert value_of(tmp_path / "out") == 1
    assert sorted(os.listdir(tmp_path / "out")) == ["COMPLETE", "other"]
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("failure", [ValueError("stop"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failure_leaves_the_old_folder(tmp_path, any_system, failure):
    save(tmp_path / "out", 1)
    expected = DiskFull if isinstance(failure, OSError) else type(failure)

    def fail() -> None:
        with staged_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("x")
            raise failure

    with pytest.raises(expected):
        fail()
    verify(tmp_path / "out")
    assert value_of(tmp_path / "out") == 1
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_behind_a_link_is_the_one_replaced(tmp_path):
    save(tmp_path / "real", 1)
    (tmp_path / "link").symlink_to("real")
    save(tmp_path / "link", 2)
    assert (tmp_path / "link").is_symlink()
    assert value_of(tmp_path / "real") == 2


def test_what_pairtune_did_not_write_is_never_removed(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    save(home)  # an empty folder may be filled
    (home / "notes.txt").write_text("mine")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for target, name in (("home", "notes.txt"), ("plain", "thesis.tex"), ("file", "a file is in the place")):
        with pytest.raises(InputError, match=name), staged_folder(tmp_path / target):
            pytest.fail("the work must not start")
    with pytest.raises(InputError, match="exists already"), staged_folder(home, replace=False):
        pytest.fail("the work must not start")
    assert sorted(tmp_path.rglob("*")) == before


def test_files_that_arrive_during_the_work_are_kept_too(tmp_path):
    save(tmp_path / "out", 1)
    with pytest.raises(InputError, match=r"notes\.txt"), staged_folder(tmp_path / "out"):
        (tmp_path / "out" / "notes.txt").write_text("mine")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert value_of(tmp_path / "out") == 1


def test_the_model_card_may_be_edited(tmp_path):
    folder = save(tmp_path / "out")
    (folder / "README.md").write_text("longer words, by a person")
    verify(folder)
    assert is_complete(folder)
    save(folder, 2)


def test_a_link_or_a_damaged_file_is_not_sealed(tmp_path):
    with pytest.raises(FormatError, match="a link cannot be part"), staged_folder(tmp_path / "out") as folder:
        (folder / "x").symlink_to("/etc/passwd")
    with pytest.raises(FormatError, match="no safetensors file"), staged_folder(tmp_path / "out") as folder:
        (folder / "x.safetensors").write_text("")
    assert os.listdir(tmp_path) == []


def test_the_newest_is_the_one_saved_last_and_whole(tmp_path):
    assert newest_complete(tmp_path, "checkpoint-*") is None
    for step in (9, 10, 8):
        save(tmp_path / f"checkpoint-{step}", step)
        time.sleep(0.002)
    save(tmp_path / "other")
    assert newest_complete(tmp_path, "checkpoint-*") == tmp_path / "checkpoint-8"
    os.truncate(tmp_path / "checkpoint-8" / "delta.safetensors", 50)
    assert newest_complete(tmp_path, "checkpoint-*") == tmp_path / "checkpoint-10"
    shutil.copytree(tmp_path / "checkpoint-10", tmp_path / ".checkpoint-11.staging-1-00000000")
    assert newest_complete(tmp_path, "*checkpoint-*") == tmp_path / "checkpoint-10"


def test_recovery_leaves_the_work_of_the_living_alone(tmp_path):
    save(tmp_path / "out", 1)
    with staged_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("x")
        assert recover(tmp_path) == []
        assert folder.is_dir()
    assert recover(tmp_path) == []
    assert recover(tmp_path / "absent") == []
    assert (tmp_path / "out" / "x").exists()


def test_recovery_does_not_touch_similar_names(tmp_path):
    names = [".out.staging-1", "out.staging-1-0a1b2c3d", ".out.staging-1-0a1b2c3d.bak", ".git", ".out.lock"]
    for name in names:
        (tmp_path / name).mkdir()
    assert recover(tmp_path) == []
    assert sorted(os.listdir(tmp_path)) == sorted(names)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where nothing can be created")
def test_a_place_where_nothing_can_be_created_is_refused_at_once():
    with pytest.raises(InputError):
        check_writable(Path("/proc"))
    with pytest.raises(InputError), staged_folder(Path("/proc/pair")):
        pass
