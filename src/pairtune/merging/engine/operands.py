"""What a merge method is given: one tensor of every model, or a piece of it, each read when it is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

PIECE = 1 << 18  # elements: in float32 one MiB, so that a few pieces stay in the cache of a core


class Readable(Protocol):
    """One model's tensor, flattened, in pieces. Every answer is a fresh tensor that the asker may change."""

    def value(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """The model's own numbers."""
        ...

    def change(self, base: Readable, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """What the model adds to the base's numbers."""
        ...


@dataclass(frozen=True)
class Operands:
    """The same piece [start, stop) of one flattened tensor in every model.

    Args:
        name: the output tensor's name.
        shape: of the whole tensor.
        inputs: one a model, in the order in which they were given.
        weights: one a model.
        origin: the base's tensor; None where the merge has no base.
        dtype: in which everything is computed.
        statistics: what was collected of each model's tensor; None where nothing was.
    """

    name: str
    shape: tuple[int, ...]
    inputs: tuple[Readable, ...]
    weights: tuple[float, ...]
    origin: Readable | None
    dtype: torch.dtype
    start: int
    stop: int
    statistics: tuple[Tensor | None, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def width(self) -> int:
        """Length of a row: of the tensor's last axis."""
        return self.shape[-1] if self.shape else 1

    def base(self) -> Tensor:
        """The base's numbers, flattened; yours to change."""
        assert self.origin is not None
        return self.origin.value(self.start, self.stop, self.dtype)

    def value(self, i: int) -> Tensor:
        """Model i's numbers, flattened; yours to change."""
        return self.inputs[i].value(self.start, self.stop, self.dtype)

    def change(self, i: int) -> Tensor:
        """Model i's numbers minus the base's, flattened; yours to change. A stored delta is given as it is."""
        assert self.origin is not None
        return self.inputs[i].change(self.origin, self.start, self.stop, self.dtype)

    def statistic(self, i: int) -> Tensor | None:
        """What `Merge.collect` gave for model i and the whole tensor, memory-mapped; not to be changed."""
        return self.statistics[i] if self.statistics else None

    def pieces(self, unit: str = "element") -> Iterator[Operands]:
        """Cut into pieces of about `PIECE` elements: always the same ones, so that results do not depend on threads."""
        step = self.stop - self.start
        if unit != "tensor":
            step = min(step, PIECE if self.width > PIECE else PIECE // self.width * self.width)
        if unit == "row":
            step = max(step, self.width)
        for start in range(self.start, self.stop, max(step, 1)):
            yield replace(self, start=start, stop=min(start + max(step, 1), self.stop))

    def generator(self, i: int, seed: int) -> torch.Generator:
        """Random numbers that belong to model i, this tensor and this piece, whoever computes it and when."""
        digest = hashlib.sha256(f"{seed}\0{i}\0{self.start}\0{self.name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
