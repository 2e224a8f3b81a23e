"""A model to be merged, read lazily: a checkpoint's tensors, or those of a base with a delta on it.

Names, shapes and types come from the headers of the files; numbers are memory-mapped and read in the pieces that are
asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pairtune.errors import DeltaMismatch, FormatError
from pairtune.merging.inputs.statistics import Statistics
from pairtune.pair.delta import Delta
from pairtune.pair.header import BITS
from pairtune.pair.parts import Dense, LowRank, Module, Part, Rows, Sign, Sparse, Value
from pairtune.pair.tensorfile import TORCH_NAMES

SPELLINGS = {getattr(torch, name): dtype for dtype, name in TORCH_NAMES.items() if hasattr(torch, name)}


class Stored:
    """A tensor as it is stored; flattened, `value` in pieces."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        self._flat = tensor.reshape(-1)

    def value(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        return self._flat[start:stop].to(dtype, copy=True)

    def change(self, base: object, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        return self.value(start, stop, dtype).sub_(base.value(start, stop, dtype))  # type: ignore[attr-defined]


class Changed:
    """A base's tensor and its change in a delta; nothing is rounded between the two."""

    def __init__(self, base: Stored, part: Part):
        self.base, self.part = base, part

    def value(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        return _value(self.part, self.base, start, stop, dtype)

    def change(self, base: object, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """The delta itself, wherever it is added: that is what moves a delta to another base."""
        return self.own_change(start, stop, dtype)

    def own_change(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """The change of the elements [start, stop) against the base that the delta was made on."""
        return _change(self.part, self.base, start, stop, dtype)


@dataclass(frozen=True)
class Source:
    """One model.

    Attributes:
        label: what the user called it; begins messages.
        folder: where its configuration and tokenizer are; None for tensors in memory.
        tensors: the stored tensors (a checkpoint, or a mapping in memory), the base's where there is a delta.
        delta: what stands on them.
        aliases: names under which the model also has a tensor that it stores under another one (a tied head).
        statistics: what a method that needs samples has collected of the model; filled before the merge begins.
    """

    label: str
    folder: Path | None
    tensors: Mapping[str, Tensor]
    delta: Delta | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    statistics: Statistics = field(default_factory=Statistics, compare=False)

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of all tensors of the model."""
        new = () if self.delta is None else (name for name, part in self.delta.items() if isinstance(part, Module))
        return frozenset({*self.tensors, *new, *self.aliases})

    def part(self, name: str) -> Part | None:
        """The change of a tensor, where the model is a base and a delta that has one."""
        return None if self.delta is None else self.delta.get(self._stored_as(name))

    def is_new(self, name: str) -> bool:
        """Whether the tensor exists in the delta alone (a new head)."""
        return isinstance(self.part(name), Module)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the model's tensor."""
        part = self.part(name)
        if part is not None:
            return part.shape
        found, name = getattr(self.tensors, "shape", None), self._stored_as(name)
        return tuple(found(name)) if found else tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        """The type in which the tensor is stored: of the base's, where a delta changes it."""
        part = self.part(name)
        if isinstance(part, Module):
            return part.value.dtype
        found, name = getattr(self.tensors, "dtype", None), self._stored_as(name)
        if found is None:
            return self.tensors[name].dtype
        dtype = getattr(torch, TORCH_NAMES.get(found(name), ""), None)
        if dtype is None or dtype.itemsize * 8 != BITS[found(name)]:
            raise FormatError(
                f"{self.label}: {name} is stored as {found(name)}, which cannot be merged; unpack it first"
            )
        return dtype

    def stored(self, name: str) -> Tensor | None:
        """The tensor itself, where the model has it as it is stored; None where a delta changes it."""
        part = self.part(name)
        if isinstance(part, Module | Value):
            return part.value
        return self.tensors[self._stored_as(name)] if part is None else None

    def statistic(self, name: str) -> Tensor | None:
        """What was collected of a tensor; None where nothing was."""
        return self.statistics.tensor(self._stored_as(name))

    def read(self, name: str) -> Stored | Changed:
        """The tensor, to be read in pieces."""
        part = self.part(name)
        if part is None:
            return Stored(self.tensors[self._stored_as(name)])
        if isinstance(part, Module):
            return Stored(part.value)
        return Changed(Stored(self.tensors[self._stored_as(name)]), part)

    def _stored_as(self, name: str) -> str:
        return self.aliases.get(name, name)


def _value(part: Part | None, base: Stored, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Elements [start, stop) of the flattened base with its change; a stored value bit for bit."""
    if part is None:
        return base.value(start, stop, dtype)
    if isinstance(part, Value):
        return Stored(part.value).value(start, stop, dtype)
    if isinstance(part, Rows):
        edge = base.tensor.numel()
        old = [_value(part.old, base, start, min(stop, edge), dtype)] if start < edge else []
        new = [Stored(part.rows).value(max(start, edge) - edge, stop - edge, dtype)] if stop > edge else []
        return torch.cat([*old, *new])
    return base.value(start, stop, dtype).add_(_change(part, base, start, stop, dtype))


def _change(part: Part, base: Stored, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Elements [start, stop) of the flattened change."""
    match part:
        case Dense(diff):
            return Stored(diff).value(start, stop, dtype)
        case Value(value):
            return Stored(value).change(base, start, stop, dtype)
        case Sparse(_, index, values):
            first, last = (int(torch.searchsorted(index, place)) for place in (start, stop))
            out = torch.zeros(stop - start, dtype=dtype)
            out[index[first:last] - start] = values[first:last].to(dtype)
            return out
        case LowRank(A, B, scale):
            width = A.shape[1]
            top, bottom = start // width, -(-stop // width)
            rows = (B[top:bottom].to(dtype) @ A.to(dtype)).mul_(scale).reshape(-1)
            return rows[start - top * width : stop - top * width]
        case Sign():
            return part.part(start, stop, dtype)
        case Rows(_, rows, old):
            edge = base.tensor.numel()
            inside = max(min(stop, edge) - start, 0)
            out = torch.zeros(stop - start, dtype=dtype)
            if inside and old is not None:
                out[:inside] = _change(old, base, start, start + inside, dtype)
            if stop > edge:
                out[inside:] = Stored(rows).value(max(start, edge) - edge, stop - edge, dtype)
            return out
    raise DeltaMismatch(f"a {part.kind} change cannot be merged")
