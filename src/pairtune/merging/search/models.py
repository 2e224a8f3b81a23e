"""The merged model of a point in memory: each group's tensors are made once for each choice and kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Container, Sequence

import psutil
import torch
from torch import Tensor

from pairtune.merging.engine import compute
from pairtune.merging.engine.by_layer import Choice, steps
from pairtune.merging.inputs.sources import Source
from pairtune.merging.search.space import Space

SHARE = 0.25  # of the free memory, for what is kept


class Merger:
    """Makes the merged models of a search. Thread-safe; a tensor that is handed out may be kept and must not change.

    Args:
        models: the pool, in the space's order.
        base: the common base; None where there is none.
        limit: the most bytes that are kept; by default a quarter of the free memory.
    """

    def __init__(self, models: Sequence[Source], base: Source | None, space: Space, limit: int | None = None):
        self.models, self.base, self.space = list(models), base, space
        self.limit = int(SHARE * psutil.virtual_memory().available) if limit is None else limit
        self._kept: OrderedDict[tuple[int, Choice], dict[str, Tensor]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def tensors(self, choices: Sequence[Choice]) -> dict[str, Tensor]:
        """The merged model: tensors by name, bit for bit what the engine writes. Raises as `plan` and the engine do."""
        there = {i: found for i, choice in enumerate(choices) if (found := self._get((i, choice))) is not None}
        fresh: dict[int, dict[str, Tensor]] = {i: {} for i in range(len(choices)) if i not in there}
        if fresh:
            with torch.inference_mode(False), torch.no_grad():
                for step in steps(self.models, self.base, self._by_place(choices, fresh)):
                    fresh[self.space.place(step.name)][step.name] = compute.whole(step)
        for place, tensors in fresh.items():
            self._put((place, choices[place]), tensors)
        return {name: tensor for one in (there | fresh).values() for name, tensor in one.items()}

    def _by_place(self, choices: Sequence[Choice], wanted: Container[int]) -> Callable[[str], Choice | None]:
        return lambda name: choices[at] if (at := self.space.place(name)) in wanted else None

    def _get(self, key: tuple[int, Choice]) -> dict[str, Tensor] | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _put(self, key: tuple[int, Choice], tensors: dict[str, Tensor]) -> None:
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = tensors
            self._size += _bytes(tensors)
            while self._size > self.limit and len(self._kept) > 1:
                _, gone = self._kept.popitem(last=False)
                self._size -= _bytes(gone)


def _bytes(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
