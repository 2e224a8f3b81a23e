"""What the tuner `sparse` installs: trainable copies of tensors in which only chosen places move."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pairtune.errors import DeltaMismatch, PairtuneError
from pairtune.pair.apply import new_values
from pairtune.pair.delta import Delta
from pairtune.pair.delta_io import load_delta
from pairtune.pair.installed import DELTA_FILE, check_state, plain_parameters
from pairtune.pair.names import norm_parameters
from pairtune.pair.parts import Module, Part, Sparse, Value
from pairtune.tuners.dense import InstalledDense, head_parameters

if TYPE_CHECKING:
    from pairtune.pair.base import Base

_INDEX = "::index"


def may_move(base: Base) -> dict[str, nn.Parameter]:
    """The Parameters whose entries can be chosen, by names in memory: all but the norms' and a task's head's."""
    left_out = {*norm_parameters(base.model), *head_parameters(base)}
    return {name: parameter for name, parameter in base.parameters.items() if name not in left_out}


class InstalledSparse(InstalledDense):
    """Copies of the base's Parameters that move at chosen places alone, and a task's head that trains whole.

    The gradient is masked as it arises, so that no clipping, accumulation or other process sees the rest of it.

    Args:
        places: name in memory → int64 [k], ascending places in the flattened tensor.
        provides, call: as in `InstalledDense`.
    """

    def __init__(self, base: Base, places: Mapping[str, Tensor], provides: Iterable[str], call: nn.Module):
        super().__init__(base, [*places, *head_parameters(base)], provides, call)
        self.places = {name: index.to(self.variants[name].device) for name, index in places.items()}
        self.no_decay = frozenset(self.places)
        for name, index in self.places.items():
            parameter = self.variants[name]
            parameter.register_hook(_marks(parameter, index).mul)

    def count(self) -> int:
        trained = {name: parameter for name, parameter in self.variants.items() if parameter.requires_grad}
        return sum(len(self.places[name]) if name in self.places else p.numel() for name, p in trained.items())

    def state(self) -> dict[str, Tensor]:
        """Heads whole; of the other tensors the values at their places, and the places under `<name>::index`."""
        state = {name: parameter.detach() for name, parameter in self.variants.items() if name not in self.places}
        for name, index in self.places.items():
            state |= {name: self.variants[name].detach().view(-1)[index], name + _INDEX: index}
        return state

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a saved state in. Raises `DeltaMismatch` unless names, shapes, places and finiteness are all right."""
        check_state(self.state(), tensors)
        for name, index in self.places.items():
            if not torch.equal(index, tensors[name + _INDEX].to(index)):
                raise DeltaMismatch(f"{name}: other places were chosen than those of the saved state")
        with torch.no_grad():
            for name, parameter in self.variants.items():
                if name in self.places:
                    parameter.copy_(self.originals[name])
                    parameter.view(-1)[self.places[name]] = tensors[name].to(parameter)
                else:
                    parameter.copy_(tensors[name])

    def delta(self) -> Delta:
        """The delta by names on disk, against what the stack below has. Base + delta is the variant bit for bit.

        Raises `PairtuneError` where something has moved a tensor elsewhere than at its places.
        """
        parts: dict[str, Part] = dict(self.whole(name for name in self.variants if name not in self.places))
        for name, index in self.places.items():
            parts |= self._sparse(name, index)
        return Delta(parts, base=self.base.stored)

    def _sparse(self, name: str, index: Tensor) -> dict[str, Sparse]:
        start, value = self.originals[name].detach(), self.variants[name].detach()
        outside = value != start
        outside.view(-1)[index] = False
        if bool(outside.any()):
            raise PairtuneError(f"{name} moved at {int(outside.sum())} places that were not chosen")
        change = _difference(start.reshape(-1)[index], value.reshape(-1)[index])
        names = self.base.names
        if not names.is_fused(name):
            return {names.disk(name)[0]: Sparse(tuple(start.shape), index, change)}
        dense = torch.zeros_like(start, dtype=change.dtype).contiguous()
        dense.view(-1)[index] = change
        pieces, marks = names.to_disk({name: dense}), names.to_disk({name: _marks(start, index)})
        found = {}
        for disk, mark in marks.items():
            at = mark.reshape(-1).nonzero().squeeze(1)
            found[disk] = Sparse(tuple(mark.shape), at, pieces[disk].reshape(-1)[at])
        return found


def restore_sparse(base: Base, pair_model: nn.Module, folder: Path, provides: Iterable[str]) -> InstalledSparse:
    """Install the sparse delta in a folder. Raises `DeltaMismatch` where it does not fit."""
    delta = load_delta(folder / DELTA_FILE)
    if strange := [name for name, part in delta.items() if not isinstance(part, Sparse | Module | Value)]:
        raise DeltaMismatch(f"{strange[0]} is stored as a {delta[strange[0]].kind} change, expected a sparse one")
    values = new_values(base, delta, {name: p.detach() for name, p in plain_parameters(base.model).items()})
    marks = {}
    for disk, part in delta.items():
        if isinstance(part, Sparse):
            marks[disk] = torch.zeros(part.shape, dtype=torch.bool)
            marks[disk].view(-1)[part.index] = True
    places = {name: mark.reshape(-1).nonzero().squeeze(1) for name, mark in base.names.to_memory(marks).items()}
    installed = InstalledSparse(base, places, provides, pair_model)
    missing, extra = sorted(installed.variants.keys() - values.keys()), sorted(values.keys() - installed.variants)
    if missing or extra:
        raise DeltaMismatch(f"{(missing or extra)[0]} is {'missing from' if missing else 'unexpected in'} the delta")
    with torch.no_grad():
        for name, value in values.items():
            installed.variants[name].copy_(value)
    return installed


def _marks(like: Tensor, index: Tensor) -> Tensor:
    """Bool tensor of a shape, True at some places."""
    marks = torch.zeros(like.shape, dtype=torch.bool, device=like.device)
    marks.view(-1)[index] = True
    return marks


def _difference(start: Tensor, value: Tensor) -> Tensor:
    """value − start, in float32 where start + difference then rounds to the value itself, else in float64.

    Float64 says it exactly unless an entry shrank to less than 2⁻²⁹ of its start.
    """
    exact = value.double() - start.double()
    if start.dtype == torch.float64:
        return exact
    short = exact.float()
    return short if torch.equal((start.float() + short).to(value.dtype), value) else exact
