"""The completeness marker: one flipped bit is found and named, and the marker itself is not trusted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from pairtune.errors import FormatError
from pairtune.pair.files import write_json, write_safetensors
from pairtune.pair.staging import is_complete, staged_folder, verify


def save(target: Path) -> Path:
    with staged_folder(target) as folder:
        write_safetensors(folder / "delta.safetensors", {"a": torch.ones(3), "b": torch.zeros(4)})
        (folder / "stack").mkdir()
        write_safetensors(folder / "stack" / "0.safetensors", {"a": torch.ones(2)})
        write_json(folder / "pair.json", {"value": 1.0})
    return target


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name, at, message",
    [
        ("delta.safetensors", -1, r"delta\.safetensors: tensor 'b'"),
        ("delta.safetensors", -17, r"delta\.safetensors: tensor 'a'"),
        ("delta.safetensors", 12, r"delta\.safetensors"),
        ("stack/0.safetensors", -1, r"stack/0\.safetensors: tensor 'a'"),
        ("pair.json", 13, r"pair\.json"),
    ],
)
def test_one_flipped_bit_is_found_and_named(tmp_path, name, at, message):
    folder = save(tmp_path / "out")
    verify(folder)
    flip(folder / name, at)
    with pytest.raises(FormatError, match=f"changed or damaged since it was saved: {message}"):
        verify(folder)


def test_every_flipped_bit_of_weights_and_manifest_is_found(tmp_path):
    folder = save(tmp_path / "out")
    for name in ("stack/0.safetensors", "pair.json"):
        for at in range((folder / name).stat().st_size):
            flip(folder / name, at)
            with pytest.raises(FormatError, match=name):
                verify(folder)
            flip(folder / name, at)
    verify(folder)


def test_missing_shorter_and_unmarked(tmp_path):
    folder = save(tmp_path / "out")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "pair.json").unlink()
    os.truncate(copy / "delta.safetensors", 99)
    with pytest.raises(FormatError, match=r"delta\.safetensors has 99 bytes instead of \d+; pair\.json is missing"):
        verify(copy)
    assert not is_complete(copy)
    (folder / "COMPLETE").unlink()
    with pytest.raises(FormatError, match="not complete: its saving was interrupted"):
        verify(folder)
    assert not is_complete(folder)
    assert not is_complete(tmp_path / "absent")


def test_a_marker_cannot_point_outside(tmp_path, opened_in):
    folder, outside = save(tmp_path / "out"), tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("secret")
    for name in ("../outside/x", str(outside / "x")):
        write_json(folder / "COMPLETE", {"format": 1, "saved_ns": 1, "files": {name: {"size": 6, "sha256": ""}}})
        with opened_in(outside) as opened, pytest.raises(FormatError, match="leads out"):
            verify(folder)
        assert not is_complete(folder)
        assert opened == []
