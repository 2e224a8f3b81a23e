"""Where every byte of the result will lie, known before the first is written: shards, headers, offsets.

The layout is that of transformers: one `model.safetensors`, or `model-00001-of-0000N.safetensors` with an index, filled
one after the other up to a size. https://huggingface.co/docs/transformers/big_models
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from pairtune.errors import InputError
from pairtune.merging.engine.plan import Step
from pairtune.merging.inputs.sources import SPELLINGS
from pairtune.pair.header import Entry, make_header

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class Shard:
    """One file: its name, the bytes before the first tensor, and where each tensor lies in it."""

    file: str
    header: bytes
    entries: Mapping[str, Entry]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return max((entry.end for entry in self.entries.values()), default=len(self.header))


def nbytes(step: Step) -> int:
    """Bytes of a tensor of the result."""
    return math.prod(step.shape) * step.dtype.itemsize


def shards(steps: Sequence[Step], most: int) -> list[Shard]:
    """The files for the steps' tensors, in their order, each with at most `most` bytes (or one larger tensor)."""
    groups: list[list[Step]] = [[]]
    filled = 0
    for step in steps:
        if groups[-1] and filled + nbytes(step) > most:
            groups.append([])
            filled = 0
        groups[-1].append(step)
        filled += nbytes(step)
    total = len(groups)
    names = [SINGLE] if total == 1 else [f"model-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
    return [one_file(name, group, {"format": "pt"}) for name, group in zip(names, groups, strict=True)]


def one_file(
    file: str, steps: Sequence[Step], metadata: Mapping[str, str], tensors: Mapping[str, Tensor] | None = None
) -> Shard:
    """A single file for all steps, and for tensors that are there already, with these notes in its header."""
    announced = {step.key: (SPELLINGS[step.dtype], step.shape) for step in steps}
    announced |= {name: (SPELLINGS[tensor.dtype], tuple(tensor.shape)) for name, tensor in (tensors or {}).items()}
    return Shard(file, *make_header(announced, metadata, file))


def index(found: Sequence[Shard]) -> dict:
    """The content of the index of several shards."""
    total = sum(entry.end - entry.begin for shard in found for entry in shard.entries.values())
    places = {name: shard.file for shard in found for name in shard.entries}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}


def parse_size(text: str | int) -> int:
    """`5GB`, `200MB` or a number of bytes. Raises `InputError` for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?B)?", str(text).strip().upper())
    value = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if value < 1:
        raise InputError(f"expected a size such as 5GB or 200MB, found {text!r}")
    return value
