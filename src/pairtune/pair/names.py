"""The one place that maps tensor names on disk to names in memory.

They differ in three ways: a checkpoint of a bare encoder lacks the `bert.` prefix that the same encoder has under a
task head; tied tensors are stored once; and newer model classes fuse several stored tensors into one (the experts of a
mixture). Everything that pairtune stores, compares or prints uses the names on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pairtune.errors import DeltaMismatch

if TYPE_CHECKING:  # transformers takes seconds to import, and is when a model is loaded
    from transformers import PreTrainedModel


class Names:
    """The mapping for one loaded model.

    Args:
        model: the loaded transformers model.
        stored: the names in the checkpoint it came from; None when there is no checkpoint.
    """

    def __init__(self, model: PreTrainedModel, stored: Iterable[str] | None = None):
        self._model = model
        self._prefix = model.base_model_prefix
        self._stored = frozenset(stored) if stored is not None else None
        self.tied: dict[str, str] = dict(getattr(model, "all_tied_weights_keys", None) or {})
        self._disk: dict[str, list[str]] = {}
        for name, tensor in unique_tensors(model).items():
            self._disk[name] = list(self.to_disk({name: torch.empty_like(tensor, device="meta")}))
        self._memory = {disk: name for name, disks in self._disk.items() for disk in disks}

    def disk(self, memory: str) -> list[str]:
        """The stored names that make up one tensor in memory (several for a fused one)."""
        return self._disk[self.tied.get(memory, memory)]

    def memory(self, disk: str) -> str | None:
        """The tensor in memory that a stored one goes into; None if the model does not have it."""
        return self._memory.get(self._as_stored(disk))

    def is_fused(self, memory: str) -> bool:
        """Whether this tensor is stored in several pieces or under another layout."""
        return len(self.disk(memory)) > 1

    @property
    def on_disk(self) -> list[str]:
        """Every stored name that this model loads, sorted."""
        return sorted(self._memory)

    def to_disk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by memory name → the same by stored name; fused ones are split, which is exact."""
        from transformers.core_model_loading import revert_weight_conversion

        reverted = revert_weight_conversion(self._model, {self.tied.get(k, k): v for k, v in tensors.items()})
        return {self._as_stored(name): tensor for name, tensor in reverted.items()}

    def to_memory(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by stored name → the same by memory name; pieces of a fused tensor must all be there.

        Raises `DeltaMismatch` for a name that the model does not load or a fused tensor that is incomplete.
        """
        unknown = [name for name in tensors if self.memory(name) is None]
        if unknown:
            raise DeltaMismatch(f"the model has no tensor {unknown[0]!r} ({len(unknown)} such names)")
        result: dict[str, Tensor] = {}
        fused: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            memory = self._memory[self._as_stored(name)]
            if self.is_fused(memory):
                fused.setdefault(memory, {})[self._as_stored(name)] = tensor
            else:
                result[memory] = tensor
        for memory, pieces in fused.items():
            missing = [name for name in self.disk(memory) if name not in pieces]
            if missing:
                raise DeltaMismatch(f"{memory} is made of {len(self.disk(memory))} stored tensors; {missing[0]} lacks")
            result[memory] = self._fuse(memory, pieces)
        return result

    def _fuse(self, memory: str, pieces: dict[str, Tensor]) -> Tensor:
        """Run the loader's own conversion forwards on the stored pieces of one tensor."""
        from transformers.core_model_loading import WeightConverter, rename_source_key

        conversions = list(getattr(self._model, "_weight_conversions", None) or [])
        converters = [item for item in conversions if isinstance(item, WeightConverter)]
        renamings = [item for item in conversions if not isinstance(item, WeightConverter)]
        patterns = {pattern: converter for converter in converters for pattern in converter.source_patterns}
        converter = None
        renamed = memory
        for name in self.disk(memory):
            renamed, pattern = rename_source_key(name, renamings, converters)
            if pattern is None:
                raise DeltaMismatch(f"no conversion is known that makes {memory} from {name}")
            converter = converter or deepcopy(patterns[pattern])
            converter.add_tensor(renamed, name, pattern, pieces[name])  # type: ignore[arg-type]
        assert converter is not None
        (tensor,) = converter.convert(renamed, model=self._model, config=self._model.config).values()
        return tensor[0] if isinstance(tensor, list) else tensor

    def _as_stored(self, name: str) -> str:
        """The spelling of the checkpoint: with or without the base model's prefix."""
        if self._stored is None or name in self._stored or not self._prefix:
            return name
        bare = name.removeprefix(self._prefix + ".")
        for spelling in (bare, f"{self._prefix}.{name}"):
            if spelling in self._stored:
                return spelling
        return name


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by their first name; a tied tensor appears once."""
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=True))
    saved = model.state_dict(keep_vars=True).keys()
    seen = {id(tensor) for tensor in tensors.values()}
    for name, buffer in model.named_buffers(remove_duplicate=True):
        if name in saved and id(buffer) not in seen:
            tensors[name] = buffer
    return tensors


def blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The transformer blocks in the order in which they run (an encoder's before a decoder's), with their names.

    A stack of blocks is an outermost `ModuleList` whose every element holds linear layers; where a model has several
    (vision tower and language model), all of them count, in the order of definition.
    """
    found: list[tuple[str, nn.Module]] = []
    outer: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) == 0:
            continue
        if any(name.startswith(prefix + ".") for prefix in outer) or not all(_is_block(child) for child in module):
            continue
        outer.append(name)
        found.extend((f"{name}.{i}", child) for i, child in enumerate(module))
    return found


def norm_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters of normalisation layers, which are known by the word in their class's name."""
    norms = [name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()]
    inside = {f"{name}.{own}" for name in norms for own, _ in model.get_submodule(name).named_parameters(recurse=False)}
    return [name for name, _ in model.named_parameters() if name in inside]


def _is_block(module: nn.Module) -> bool:
    """A block has at least two projections (attention or mixer, and feed-forward)."""
    return sum(is_linear(one) for one in module.modules()) >= 2


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies by a matrix, GPT-2's and quantised ones included."""
    return isinstance(module, nn.Linear) or type(module).__name__ in ("Conv1D", "Linear4bit")
