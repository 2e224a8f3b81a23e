"""How much memory a run takes, by part."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pairtune.pair.installed import SwappedParameters

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair


@dataclass(frozen=True)
class Memory:
    """Bytes by part.

    Attributes:
        weights: the base's parameters.
        delta: what tuning adds; a dense delta is a second set of the tensors that it changes.
        gradients: one value for each trained parameter.
        optimizer: AdamW's two moments.
        activations: what one micro-batch's forward keeps for its backward, measured.
    """

    weights: int
    delta: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All parts together; libraries, fragmentation and temporary buffers come on top."""
        return sum(asdict(self).values())


def memory_of(pair: Pair, activations: int) -> Memory:
    """Memory of training the pair's top delta, with the activations as measured by `SavedBytes`."""
    trained = [p for _, p in pair.trainable() if p.requires_grad]
    own = {id(p): p for _, p in pair.trainable()}
    everything = {id(p): p for p in pair.model.parameters()} | own
    weights = {key: p for key, p in everything.items() if key not in own}
    installed = pair.top.installed
    if isinstance(installed, SwappedParameters):
        weights |= {id(p): p for p in installed.originals.values()}
    return Memory(
        weights=_bytes(weights.values()),
        delta=_bytes(own.values()),
        gradients=_bytes(trained),
        optimizer=2 * _bytes(trained),
        activations=activations,
    )


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


class SavedBytes:
    """Counts, while active, the memory that forwards keep for their backward: each storage once, weights not."""

    def __init__(self, model: nn.Module):
        self.bytes = 0
        self._seen = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)


def readable(count: float) -> str:
    """`512 kB`, `1.3 MB`, `2.0 GB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"
