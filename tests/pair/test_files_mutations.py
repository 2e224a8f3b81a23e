"""Random mutations of valid files: whatever is read, the answer is the whole thing or a typed error."""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open

from pairtune.errors import FormatError
from pairtune.pair.files import checkpoint_files, open_safetensors, read_json, write_json, write_safetensors
from pairtune.pair.hub import refuse_remote_code
from pairtune.pair.staging import is_complete, newest_complete, staged_folder, verify

COUNTS = [pytest.param(2_000, id="quick"), pytest.param(10_000, id="soak", marks=pytest.mark.soak)]
TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"0",
    b"-1",
    b"1e9",
    b"null",
    b"true",
    b"NaN",
    b'"..',
    b"F32",
    b"\0",
]


def mutate(data: bytes, rng: random.Random, text_end: int) -> bytes:
    """One to three small changes, more of them in the first `text_end` bytes, where the meaning is."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(min(text_end, len(changed)) if rng.random() < 0.6 else len(changed)) if changed else 0
        match rng.randrange(7):
            case 0:
                changed[at : at + 1] = bytes([changed[at] ^ (1 << rng.randrange(8))]) if changed else b""
            case 1:
                del changed[at : at + rng.randint(1, 9)]
            case 2:
                changed[at:at] = rng.choice(TOKENS)
            case 3:
                changed[at : at + 1] = str(rng.randrange(10)).encode()
            case 4:
                changed[at:at] = changed[at : at + rng.randint(1, 80)]  # repeated keys come from here
            case 5:
                del changed[rng.randrange(len(changed) + 1) :]
            case 6:
                changed[:8] = (int.from_bytes(changed[:8], "little") + rng.randint(-9, 9)).to_bytes(16, "little")[:8]
    return bytes(changed)


def put(path: Path, data: bytes) -> None:
    """Overwrite in place: truncating to nothing first makes ext4 wait for the disk, thousands of times."""
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


def accepted_by_reference(path: Path) -> dict[str, list[int]] | None:
    try:
        with safe_open(path, "np") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}
    except (SafetensorError, OSError, ValueError):
        return None


@pytest.mark.parametrize("count", COUNTS)
def test_a_mutated_weights_file_is_whole_or_refused(tmp_path, count):
    valid, path, rng = tmp_path / "valid", tmp_path / "a.safetensors", random.Random(0)
    tensors = {
        "a.weight": torch.randn(3, 4),
        "b": torch.randn(5).bfloat16(),
        "c": torch.zeros(0, 2),
        "d": torch.tensor(7),
    }
    write_safetensors(valid, tensors, {"format": "pt"})
    data, seen = valid.read_bytes(), Counter()
    path.touch()
    for _ in range(count):
        mutated = mutate(data, rng, text_end=len(data) - 80)
        put(path, mutated)
        try:
            opened = open_safetensors(path)
            read = {name: opened.tensor(name) for name in opened}
            opened.non_finite()
            assert sum(len(opened.raw(name)) for name in opened) + len(opened.header()) == len(mutated)
        except FormatError:
            seen["refused"] += 1
            continue
        seen["accepted"] += 1
        # Never laxer than the reference reader, and with the same view of what is in the file.
        assert accepted_by_reference(path) == {name: list(tensor.shape) for name, tensor in read.items()}
    assert min(seen.values()) > count / 50, "the mutations should reach both outcomes"


@pytest.mark.parametrize("count", COUNTS)
def test_a_mutated_manifest_gives_typed_errors_only(tmp_path, count):
    with staged_folder(tmp_path / "saved") as staging:
        write_safetensors(staging / "shard-1.safetensors", {"a": torch.ones(2)})
        write_json(staging / "config.json", {"model_type": "bert", "nested": [{"x": 1.5, "y": None}], "é": "ü"})
        weight_map = {"a": "shard-1.safetensors", "b": "shard-1.safetensors"}
        write_json(staging / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    folder, rng, seen = tmp_path / "saved", random.Random(1), Counter()
    readers = {
        "COMPLETE": [verify, is_complete, lambda folder: newest_complete(folder.parent)],
        "config.json": [refuse_remote_code],
        "model.safetensors.index.json": [checkpoint_files],
    }
    valid = {name: (folder / name).read_bytes() for name in readers}
    for i in range(count):
        name = rng.choice(list(readers))
        mutated = mutate(valid[name], rng, len(valid[name]))
        put(folder / name, mutated)
        for read in readers[name]:
            try:
                assert read(folder) in (None, True, False, folder, [folder / "shard-1.safetensors"])
                seen[name, "accepted"] += 1
            except FormatError:
                seen[name, "refused"] += 1
        with contextlib.suppress(FormatError):
            accepted = read_json(folder / name)
            assert json.loads(mutated) == accepted
        if i % 10 == 0 and name != "COMPLETE" and mutated != valid[name]:
            with pytest.raises(FormatError, match=name):
                verify(folder)
        put(folder / name, valid[name])
    assert len(seen) == 6, f"the mutations should reach both outcomes for each file: {seen}"
