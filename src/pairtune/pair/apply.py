"""Put a weights delta on a loaded base: every kind becomes Parameters that are exchanged with the base's."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pairtune.errors import BaseMismatch, DeltaMismatch
from pairtune.pair.installed import SwappedParameters

if TYPE_CHECKING:
    from pairtune.pair.base import Base
    from pairtune.pair.checkpoint import Checkpoint
    from pairtune.pair.delta import Delta

log = logging.getLogger("pairtune")


def install_delta(base: Base, delta: Delta, call: nn.Module | None = None) -> SwappedParameters:
    """Materialise base + delta for the tensors that the delta names and switch them in.

    A matrix that gained rows (added tokens) is exchanged for the longer one; this is said in the log. Costs a second
    copy of the tensors that the delta names. Raises `DeltaMismatch` for a name or shape that does not fit.
    """
    current: dict[str, Tensor] = {name: parameter.detach() for name, parameter in base.parameters.items()}
    variants = {}
    for memory, value in new_values(base, delta, current).items():
        old = current[memory]
        if len(value) > len(old):
            log.warning("%s: %d rows added by tuning (%d → %d)", memory, len(value) - len(old), len(old), len(value))
        variants[memory] = nn.Parameter(value.to(old.device, old.dtype).contiguous(), requires_grad=False)
    if not variants:
        raise DeltaMismatch("the delta changes nothing")
    return SwappedParameters(base.model, variants, call=call)


def new_values(base: Base, delta: Delta, current: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The changed tensors by name in memory: what `current` becomes when the delta is added.

    Raises `DeltaMismatch` for a name that the base does not have or a shape that does not fit.
    """
    changed: dict[str, Tensor] = {}
    for memory in _touched(base, delta):
        pieces = base.names.to_disk({memory: current[memory]})
        changed.update({disk: _new_value(delta, disk, old) for disk, old in pieces.items()})
    values = base.names.to_memory(changed)
    for memory, value in values.items():
        old = current[memory]
        if value.shape[1:] != old.shape[1:] or value.shape[:1] < old.shape[:1]:
            raise DeltaMismatch(f"{memory} becomes {list(value.shape)}, the base has {list(old.shape)}")
    return values


def stacked(base: Base, deltas: Iterable[Delta]) -> dict[str, Tensor]:
    """The tensors that some deltas, laid on the base one upon the other, change: what they become, by name in memory.

    Raises as `new_values`.
    """
    current: dict[str, Tensor] = {name: parameter.detach() for name, parameter in base.parameters.items()}
    changed: dict[str, Tensor] = {}
    for delta in deltas:
        changed |= new_values(base, delta, current)
        current |= changed
    return changed


def _new_value(delta: Delta, disk: str, old: Tensor) -> Tensor:
    if disk not in delta:
        return old
    from pairtune.pair.parts import Module

    part = delta[disk]
    # A new head exists in the delta alone: there is no base value to add to.
    return part.value if isinstance(part, Module) else delta.apply(disk, old)


def _touched(base: Base, delta: Delta) -> list[str]:
    """Names in memory of the Parameters that a delta changes."""
    touched = []
    for disk in delta:
        memory = base.names.memory(disk)
        if memory is None or base.names.tied.get(memory, memory) not in base.parameters:
            raise DeltaMismatch(f"the delta changes {disk}, which {base.source} does not have")
        touched.append(base.names.tied.get(memory, memory))
    return list(dict.fromkeys(touched))


def difference_of(base: Base, finetuned: Checkpoint) -> Delta:
    """The delta between a base and a fine-tuned checkpoint of it: the tensors whose stored values differ.

    Values stay on disk until asked for. Raises `BaseMismatch` when a tensor is missing, unexpected or has another
    shape (more rows of the embeddings are added tokens and fine), naming the first.
    """
    from pairtune.pair.delta import Delta
    from pairtune.pair.parts import Module, Rows, Value

    prefix = base.model.base_model_prefix + "."
    theirs = {name.removeprefix(prefix): name for name in finetuned}
    parts = {}
    for name in base.checkpoint:
        bare = name.removeprefix(prefix)
        if base.names.memory(name) is None:
            continue
        if bare not in theirs:
            raise BaseMismatch(f"{finetuned.folder.name}: the tensor {name} of {base.source} is missing from it")
        old, new = base.checkpoint.shape(name), finetuned.shape(theirs[bare])
        if old == new:
            if finetuned.digest(theirs[bare]) != base.checkpoint.digest(name):
                parts[name] = Value(finetuned[theirs[bare]])
        elif len(old) == 2 and old[1:] == new[1:] and new[0] > old[0] and old[0] == base.vocabulary_rows:
            value = finetuned[theirs[bare]]
            kept = value[: old[0]]
            same = torch.equal(kept, base.stored(name))
            parts[name] = Rows(first_row=old[0], rows=value[old[0] :], old=None if same else Value(kept))
        else:
            raise BaseMismatch(
                f"{finetuned.folder.name}: {name} has the shape {list(new)}, {base.source} has {list(old)}"
            )
    known = {name.removeprefix(prefix) for name in base.names.on_disk} | {
        n.removeprefix(prefix) for n in base.names.tied
    }
    heads = {theirs[bare]: bare for bare in theirs if base.names.memory(theirs[bare]) in base.new_names}
    parts.update({name: Module(finetuned[name]) for name in heads})
    extra = sorted(bare for bare in theirs if bare not in known)
    if extra:
        raise BaseMismatch(f"{finetuned.folder.name}: {theirs[extra[0]]} is not a tensor of {base.source}")
    if not parts:
        raise DeltaMismatch(f"{finetuned.folder.name} equals {base.source}: there is no delta between them")
    delta = Delta(parts, base=base.stored)
    broken = delta.non_finite_names()
    if broken:
        raise DeltaMismatch(f"{finetuned.folder.name}: NaN or infinite values in {', '.join(broken[:5])}")
    return delta
