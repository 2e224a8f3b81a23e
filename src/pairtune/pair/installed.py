"""A delta that sits on a model and can be switched: what a tuner's `install` returns.

Switching exchanges Parameter objects in their modules or sets a flag. It never adds in place (that does not restore
the base exactly) and never assigns `.data` (that gives silently wrong gradients).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pairtune.errors import DeltaMismatch, MissingView
from pairtune.pair.files import open_safetensors, write_safetensors

if TYPE_CHECKING:
    from pairtune.pair.delta import Delta

DELTA_FILE = "delta.safetensors"


class Installed:
    """One delta on a model. Subclasses say how it is switched; the rest works from `trainable()`.

    Attributes:
        model: the module to call; it takes a batch's model inputs and returns an object with `.logits`.
        provides: what can be asked of it: "tokens", "labels", "masked", "scale", "merge", "identity_at_start",
            "cacheable"; and "moves_logits", where its logits are not the base's head on hidden states.
        lr_scales: learning rates of parameters as multiples of the run's, by name; 1 where none is given.
        no_decay: names of parameters that weight decay must not touch.
    """

    def __init__(self, model: nn.Module, provides: Iterable[str]):
        self.model = model
        self.provides = frozenset(provides)
        self.lr_scales: dict[str, float] = {}
        self.no_decay: frozenset[str] = frozenset()

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Names and Parameters that training changes, in a stable order."""
        raise NotImplementedError

    def count(self) -> int:
        """How many numbers training may change."""
        return sum(parameter.numel() for _, parameter in self.trainable() if parameter.requires_grad)

    def on(self) -> None:
        """Make the model the variant."""
        raise NotImplementedError

    def off(self) -> None:
        """Make the model what it was before this delta was installed, bit for bit."""
        raise NotImplementedError

    def scale(self, alpha: float) -> None:
        """Make the model base + alpha · delta. Raises `MissingView` where that has no meaning."""
        raise MissingView(f"{type(self).__name__} cannot be scaled; off (0) and on (1) work")

    def first_changed(self) -> int:
        """Index of the first block whose output may differ from the base's (0: already its input does)."""
        return 0

    def origin(self, name: str) -> Tensor | None:
        """Where a trained Parameter has its counterpart in the base: that value, or one that broadcasts to it."""
        return None

    def state(self) -> dict[str, Tensor]:
        """The delta's tensors by stable names, detached and not copied."""
        return {name: parameter.detach() for name, parameter in self.trainable()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a saved state in. Raises `DeltaMismatch` unless names, shapes and finiteness are all right."""
        own = dict(self.trainable())
        check_state(own, tensors)
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(tensors[name])

    def write(self, folder: Path) -> list[str]:
        """Write the delta's files into a folder; returns their names."""
        write_safetensors(folder / DELTA_FILE, {k: v.contiguous() for k, v in self.state().items()}, {})
        return [DELTA_FILE]

    def read(self, folder: Path) -> None:
        """Copy in what `write` left. Raises `DeltaMismatch` where it does not fit."""
        stored = open_safetensors(folder / DELTA_FILE)
        self.load_state({name: stored.tensor(name) for name in stored})

    def delta(self) -> Delta:
        """The delta as an algebraic object, by the names on disk."""
        raise NotImplementedError

    def frozen_modules(self) -> list[nn.Module]:
        """Modules that stay in evaluation mode while training: those in which nothing trains."""
        training = {id(parameter) for _, parameter in self.trainable()}
        return [
            module
            for module in self.model.modules()
            if any(True for _ in module.parameters()) and not any(id(p) in training for p in module.parameters())
        ]


def check_state(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse a saved state whose names or shapes differ or that holds NaN or infinite values."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        parts = [f"{len(missing)} missing ({_some(missing)})"] if missing else []
        parts += [f"{len(extra)} unexpected ({_some(extra)})"] if extra else []
        raise DeltaMismatch(f"the delta's tensors do not fit the model: {' and '.join(parts)}")
    for name, tensor in found.items():
        if tuple(tensor.shape) != tuple(expected[name].shape):
            raise DeltaMismatch(f"{name} has the shape {list(tensor.shape)}, expected {list(expected[name].shape)}")
    broken = [name for name, tensor in found.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise DeltaMismatch(f"the delta holds NaN or infinite values in {_some(broken)}")


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class SwappedParameters(Installed):
    """A delta that replaces Parameters: full tuning, a head, or weights loaded from a checkpoint.

    The base's Parameter objects are kept aside and put back by `off()`; tied places are exchanged together.

    Args:
        model: the transformers model whose Parameters are exchanged.
        variants: Parameter by name in memory; may have more rows than the base's (added tokens).
        call: the module to call, where it is not `model` itself.
    """

    def __init__(
        self,
        model: nn.Module,
        variants: Mapping[str, nn.Parameter],
        provides: Iterable[str] = ("tokens", "labels", "scale", "merge", "identity_at_start"),
        call: nn.Module | None = None,
    ):
        super().__init__(call if call is not None else model, provides)
        self._root = model
        self.variants = dict(variants)
        originals = plain_parameters(model)
        unknown = [name for name in self.variants if name not in originals]
        if unknown:
            raise DeltaMismatch(f"the model has no parameter {unknown[0]!r}")
        self.originals = {name: originals[name] for name in self.variants}
        self._sites = _sites(model, self.originals)
        self.on()

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.variants.items())

    def on(self) -> None:
        self._put(self.variants)

    def off(self) -> None:
        self._put(self.originals)

    def scale(self, alpha: float) -> None:
        mixed = {}
        with torch.no_grad():
            for name, variant in self.variants.items():
                base = self.originals[name]
                if base.shape != variant.shape:
                    raise MissingView(f"{name} has added rows, so that a fraction of the delta has no meaning")
                value = base.float() + alpha * (variant.float() - base.float())
                mixed[name] = nn.Parameter(value.to(base.dtype), requires_grad=False)
        self._put(mixed)

    def first_changed(self) -> int:
        return first_changed_block(self._root, self.variants)

    def origin(self, name: str) -> Tensor | None:
        return self.originals[name]

    def _put(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, sites in self._sites.items():
            for module, attribute in sites:
                module._parameters[attribute] = parameters[name]


def plain_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by the names that they have before any adapter wraps their module."""
    return {name.replace(".base_layer.", "."): p for name, p in model.named_parameters(remove_duplicate=True)}


def _sites(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[str, list[tuple[nn.Module, str]]]:
    """Every (module, attribute) that holds each Parameter, tied places included."""
    by_id: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                by_id.setdefault(id(parameter), []).append((module, attribute))
    return {name: by_id[id(parameter)] for name, parameter in parameters.items()}


def first_changed_block(model: nn.Module, changed: Iterable[str]) -> int:
    """Index of the first block that the change of some parameters reaches, by the order of definition.

    A parameter defined before the blocks (embeddings) reaches block 0; one defined after them (final norm, head)
    reaches none: the number of blocks. A wrong guess is caught where it is used, by comparison with the plain pass.
    """
    from pairtune.pair.names import blocks

    prefixes = [name + "." for name, _ in blocks(model)]
    order = [name for name, _ in model.named_parameters()]
    wanted = set(changed)
    passed = 0
    first = len(prefixes)
    for name in order:
        index = next((i for i, prefix in enumerate(prefixes) if name.startswith(prefix)), None)
        if index is not None:
            passed = index + 1
        if name in wanted:
            first = min(first, index if index is not None else passed)
    return first
