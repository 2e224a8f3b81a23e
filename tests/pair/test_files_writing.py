"""Writing: the reference's bytes, tied weights refused, and on a full disk the previous file untouched."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pairtune.errors import DiskFull, FormatError, InputError
from pairtune.pair.files import open_safetensors, read_json, write_json, write_safetensors
from pairtune.pair.staging import check_writable


def test_the_bytes_are_those_of_the_reference_writer(tmp_path):
    torch.manual_seed(0)
    tensors = {f"é{i}": torch.randn(3, i).to(t) for i, t in enumerate((torch.half, torch.float64, torch.float32))}
    tensors |= {"bool": torch.tensor([True, False]), "f8": torch.randn(5).to(torch.float8_e4m3fn), "s": torch.tensor(1)}
    write_safetensors(tmp_path / "a", tensors, {"format": "pt"})
    assert (tmp_path / "a").read_bytes() == safetensors.torch.save(tensors, {"format": "pt"})
    write_safetensors(tmp_path / "b", dict(reversed(tensors.items())), {"format": "pt"})
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


def test_strided_tensors_and_parameters_are_written_by_value(tmp_path):
    grid = torch.arange(12.0).view(3, 4)
    strided = {"t": grid.t(), "step": torch.arange(10)[::3], "wide": torch.ones(1, 2).expand(3, 2)}
    strided |= {"parameter": torch.nn.Parameter(torch.ones(2)), "conjugate": torch.tensor([1 + 2j]).conj()}
    write_safetensors(tmp_path / "a", strided)
    opened = open_safetensors(tmp_path / "a")
    for name, tensor in strided.items():
        assert torch.equal(opened.tensor(name), tensor), name


def test_tensors_that_share_memory_are_refused_by_name(tmp_path):
    weight = torch.randn(4, 3)
    for tied in (weight, weight.t(), weight[1:], weight.view(-1)[2:5]):
        with pytest.raises(FormatError, match=r"'(embed|head)' and '(embed|head)': they share memory"):
            write_safetensors(tmp_path / "a", {"embed": weight, "other": torch.ones(1), "head": tied})
    write_safetensors(tmp_path / "a", {"q": weight[:2], "k": weight[2:], "none": weight[:0]})  # neighbours, not shared
    assert torch.equal(open_safetensors(tmp_path / "a").tensor("k"), weight[2:])


@pytest.mark.parametrize(
    "tensors, metadata",
    [
        ({"a": torch.empty(2, device="meta")}, None),
        ({"a": torch.eye(2).to_sparse()}, None),
        ({"a": torch.zeros(2, dtype=torch.complex128)}, None),
        ({"__metadata__": torch.zeros(2)}, None),
        ({"\ud800": torch.zeros(2)}, None),
        ({"a": torch.zeros(2)}, {"steps": 3}),
    ],
    ids=["meta", "sparse", "type", "reserved name", "half a character", "metadata"],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path, tensors, metadata):
    with pytest.raises(FormatError, match=str(tmp_path)):
        write_safetensors(tmp_path / "a", tensors, metadata)
    assert os.listdir(tmp_path) == []


def test_json_comes_back_and_is_replaced_whole(tmp_path):
    path, card = tmp_path / "pair.json", {"name": "é ", "loss": [0.1, 1e-300], "none": None, "deep": {"x": [True]}}
    write_json(path, {"old": 1})
    write_json(path, card)
    assert read_json(path) == card
    assert os.listdir(tmp_path) == ["pair.json"]
    for bad in ({"x": float("nan")}, {"x": float("inf")}, {"x": "\ud800"}):
        with pytest.raises(FormatError, match="cannot be written as JSON"):
            write_json(path, bad)
    assert read_json(path) == card


@pytest.mark.parametrize("what", ["weights", "json"])
def test_a_write_that_hits_a_size_limit_leaves_the_old_file(tmp_path, in_child, what):
    path = tmp_path / "file"

    def write(size: int) -> None:
        write_safetensors(path, {"a": torch.ones(size)}) if what == "weights" else write_json(
            path, {"a": "x" * 4 * size}
        )

    def child():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # the system then answers EFBIG
        with pytest.raises(DiskFull, match=r"File too large \(1,200,\d\d\d bytes are needed, [\d,]+ bytes are free\)"):
            write(300_000)

    write(10)
    before = path.read_bytes()
    in_child(child)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_is_told_before_and_while_writing(small_disk):
    path = small_disk / "a.safetensors"
    write_safetensors(path, {"a": torch.zeros(100)})
    before = path.read_bytes()
    with pytest.raises(DiskFull, match=r"too full \(2,000,0\d\d bytes are needed, 1,0\d\d,\d\d\d bytes are free\)"):
        write_safetensors(path, {"a": torch.zeros(500_000)})
    # The room can go after it was looked for: here every byte is taken by then.
    filler = small_disk / "filler"
    filler.write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096))
    with pytest.raises(DiskFull, match="bytes are free"):
        write_json(small_disk / "card.json", {"a": 1})
    assert path.read_bytes() == before
    assert sorted(os.listdir(small_disk)) == ["a.safetensors", "filler"]


def test_a_read_only_disk_is_found_before_work_starts(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for folder in (small_disk, small_disk / "runs" / "new"):
        with pytest.raises(InputError, match="Read-only file system"):
            check_writable(folder)


def test_a_place_that_is_no_folder_is_found_before_work_starts(tmp_path):
    (tmp_path / "file").write_text("x")
    bad = [tmp_path / "file", tmp_path / "file" / "run"]
    bad += [Path("/proc/nothing-can-be-made-here")] if Path("/proc/self").exists() else []
    for folder in bad:
        with pytest.raises(InputError, match=f"cannot write {folder}"):
            check_writable(folder)
    assert check_writable(tmp_path / "made" / "on the way").is_dir()
    assert os.listdir(tmp_path / "made" / "on the way") == []


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "precious").write_text("x")
    (tmp_path / "card.json").symlink_to(tmp_path / "precious")
    write_json(tmp_path / "card.json", {"a": 1})
    assert (tmp_path / "precious").read_text() == "x"
    assert json.loads((tmp_path / "card.json").read_text()) == {"a": 1}
