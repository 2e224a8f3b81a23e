"""A delta that replaces whole Parameters of the base, as the tuners `full` and `head` train it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from pairtune.errors import DeltaMismatch, InputError
from pairtune.method import VIEWS
from pairtune.pair.apply import new_values
from pairtune.pair.delta import Delta
from pairtune.pair.delta_io import load_delta, save_delta
from pairtune.pair.installed import DELTA_FILE, SwappedParameters, plain_parameters
from pairtune.pair.parts import Module, Value

if TYPE_CHECKING:
    from pairtune.pair.base import Base


def head_parameters(base: Base) -> list[str]:
    """Names in memory of the parameters of an encoder's head, new or the checkpoint's own; none without a head."""
    prefix = base.model.base_model_prefix + "."
    own = base.family == "encoder" and base.model.base_model is not base.model
    return [n for n in base.parameters if n in base.new_names or (own and not n.startswith(prefix))]


class InstalledDense(SwappedParameters):
    """Trainable copies of some of the base's Parameters; they begin with the values that the stack below has now.

    Args:
        base: the base whose Parameters are replaced.
        names: which, by their names in memory.
        provides: as in `Installed`; of the views that a head can have, only the base's is kept.
        call: the module to call.
    """

    def __init__(self, base: Base, names: Iterable[str], provides: Iterable[str], call: nn.Module):
        base.model.requires_grad_(False)
        now = plain_parameters(base.model)
        names = list(names)
        if lacking := [name for name in names if name not in now]:
            raise InputError(
                f"{lacking[0]} is wrapped by an adapter of the stack below, so that it cannot be tuned itself; "
                "save the pair merged, and tune that"
            )
        if quantized := [name for name in names if not now[name].is_floating_point()]:
            raise InputError(
                f"{quantized[0]} is stored in {now[quantized[0]].dtype}; a quantised base takes lora or peft:..."
            )
        variants = {name: nn.Parameter(now[name].detach().clone()) for name in names}
        super().__init__(base.model, variants, frozenset(provides) - (VIEWS - {base.view or "labels"}), call)
        self.base = base

    def delta(self) -> Delta:
        """The delta by names on disk; it shares memory with the variant. A new head stands alone (`Module`)."""
        return Delta(self.whole(self.variants), base=self.base.stored)

    def whole(self, names: Iterable[str]) -> dict[str, Value | Module]:
        """Some of the variant's tensors as they are, by names on disk."""
        values = {name: self.variants[name].detach() for name in names}
        new = {disk for name in self.base.new_names if name in values for disk in self.base.names.disk(name)}
        return {disk: Module(v) if disk in new else Value(v) for disk, v in self.base.names.to_disk(values).items()}

    def write(self, folder: Path) -> list[str]:
        save_delta(self.delta(), folder / DELTA_FILE)
        return [DELTA_FILE]

    def begin_at(self, delta: Delta) -> None:
        """Take the values that a delta of weights makes. `InputError` for one that is no change of these tensors."""
        if strange := [name for name in delta if self.base.names.memory(name) is None]:
            raise InputError(f"start: {strange[0]} is no tensor of the base, so that it cannot be tuned as one")
        values = new_values(self.base, delta, {name: p.detach() for name, p in self.variants.items()})
        with torch.no_grad():
            for name, value in values.items():
                if value.shape != self.variants[name].shape:
                    raise InputError(f"start: {name} has added rows; export that pair merged, and tune it as a base")
                self.variants[name].copy_(value)

    def read(self, folder: Path) -> None:
        """Copy in what `write` left. Raises `DeltaMismatch` where it does not fit."""
        delta = load_delta(folder / DELTA_FILE)
        if strange := [name for name, part in delta.items() if not isinstance(part, Module | Value)]:
            raise DeltaMismatch(f"{strange[0]} is stored as a {delta[strange[0]].kind} change, expected its values")
        self.load_state(self.base.names.to_memory({name: part.value for name, part in delta.items()}))  # type: ignore[attr-defined]
