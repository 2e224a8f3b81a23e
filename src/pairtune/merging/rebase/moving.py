"""One tensor, or one delta, from an old base to a new one: new + (variant - old), in float64, rounded once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pairtune.errors import DeltaMismatch, InputError
from pairtune.pair.delta import Delta
from pairtune.pair.delta_io import FORMAT, load_delta
from pairtune.pair.files import open_safetensors
from pairtune.pair.part import CHUNK, wide
from pairtune.pair.parts import Module, Part, Rows, Value
from pairtune.pair.tensor_names import naming

if TYPE_CHECKING:
    from pairtune.pair.base import Base

NEEDS_OLD = "the fine-tune is stored as whole weights, so that the old base is needed; name it with --base"


def moved(variant: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """new + (variant - old), all of one shape, in the variant's type; a piece at a time.

    Where old and new have the same number, the result has the variant's, bit for bit.
    """
    if not old.shape == new.shape == variant.shape:
        shapes = f"{list(variant.shape)}, {list(old.shape)} and {list(new.shape)}"
        raise DeltaMismatch(f"variant, old and new base have the shapes {shapes}")
    out = torch.empty_like(variant, memory_format=torch.contiguous_format)
    flat = out.view(-1)
    pieces = [tensor.detach().reshape(-1) for tensor in (variant, old, new)]
    for start in range(0, flat.numel(), CHUNK):
        tuned, before, after = (wide(piece[start : start + CHUNK]).to(flat.device) for piece in pieces)
        there = torch.where(before == after, tuned, after + (tuned - before))
        flat[start : start + CHUNK] = there.to(flat.dtype)
    return out


def moved_part(part: Part, old: Tensor | None, new: Tensor) -> Part:
    """A change of the old base's tensor as the same change of the new one's. `InputError` where `old` is needed."""
    if isinstance(part, Rows):
        return Rows(part.first_row, part.rows, None if part.old is None else moved_part(part.old, old, new))
    if not isinstance(part, Value):
        return part  # a difference is free of the base, and a module has none
    if old is None:
        raise InputError(NEEDS_OLD)
    return Value(moved(part.value, old, new))


def moved_delta(delta: Delta, old: Base | None, new: Base) -> Delta:
    """A delta on the old base as the same delta on the new one, by the new base's names on disk."""
    names = _spelled(old, new)
    parts = {}
    for name, part in delta.items():
        with naming(name):
            there = names.get(name, name)
            if isinstance(part, Module):
                parts[there] = part
            else:
                parts[there] = moved_part(part, old.stored(name) if old is not None else None, _stored(new, there))
    return Delta(parts, base=new.stored)


def moved_parameters(parameters: Mapping[str, nn.Parameter], stored: Delta, old: Base | None, new: Base) -> None:
    """Move a variant's own Parameters in place: those that `stored` holds as whole values.

    Args:
        parameters: by their names in the new base's memory, with the fine-tune's values.
    """
    if old is None:
        raise InputError(NEEDS_OLD)
    whole = {_spelled(old, new).get(name, name) for name, part in stored.items() if isinstance(part, Value)}
    for memory, parameter in parameters.items():
        pieces = new.names.to_disk({memory: parameter.detach()})
        if not whole & pieces.keys():
            continue  # a new head
        befores = old.names.disk(memory)
        there = {
            name: moved(piece, old.stored(before), new.stored(name))
            for (name, piece), before in zip(pieces.items(), befores, strict=True)
        }
        with torch.no_grad():
            parameter.copy_(next(iter(new.names.to_memory(there).values())))


def values_in(path: Path) -> Delta | None:
    """The delta in a file, with its tensors on disk; None where the file holds a module's own tensors."""
    if not path.is_file() or open_safetensors(path).metadata().get("format") != FORMAT:
        return None
    return load_delta(path)


def _spelled(old: Base | None, new: Base) -> dict[str, str]:
    """The old base's names on disk → the new one's: one of them may have been saved with the base model's prefix."""
    if old is None:
        return {}
    memories = {memory for name in new.names.on_disk if (memory := new.names.memory(name)) is not None}
    pairs = (zip(old.names.disk(memory), new.names.disk(memory), strict=True) for memory in memories)
    return {before: after for both in pairs for before, after in both}


def _stored(new: Base, name: str) -> Tensor:
    if name not in new.checkpoint:
        raise DeltaMismatch(f"{new.source} has no such tensor")
    return new.stored(name)
