"""Which rows every optimizer step sees: decided by seed and epoch alone, not by how the work is cut up.

A step owns `batch_size` × `accumulation` consecutive rows of the epoch's permutation. They are dealt out to the
processes and their micro-batches as evenly as possible, so that two processes, or half the batch with twice the
accumulation, sum the gradients of the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

GHOST = "ghost"  # key of a batch that stands in for an empty one: it is computed, and counts nothing


class StepOrder(Sampler[list[int]]):
    """Micro-batches of row numbers for one process.

    Where a step has fewer rows than there are places for (the last one of an epoch), a process gets a ghost: the step's
    first row as −1 − row, so that all processes make the same number of passes.

    Args:
        rows: length of the split.
        batch_size: most rows of a micro-batch.
        accumulation: micro-batches of a step, over all processes.
        world: number of processes; rank: which of them this is.
    """

    def __init__(self, rows: int, batch_size: int, accumulation: int, seed: int, rank: int = 0, world: int = 1):
        self.rows, self.batch_size, self.seed, self.rank, self.world = rows, batch_size, seed, rank, world
        self.step_rows = batch_size * accumulation
        self.passes = math.ceil(accumulation / world)  # micro-batches of a full step on each process
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation."""
        self.epoch = epoch

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return math.ceil(self.rows / self.step_rows)

    def __len__(self) -> int:
        last = self.rows - (self.steps - 1) * self.step_rows
        return (self.steps - 1) * self.passes + self._passes(last)

    def _passes(self, rows: int) -> int:
        return min(self.passes, math.ceil(rows / (self.batch_size * self.world)))

    def __iter__(self) -> Iterator[list[int]]:
        permutation = np.random.default_rng([self.seed, self.epoch]).permutation(self.rows)
        for start in range(0, self.rows, self.step_rows):
            step = permutation[start : start + self.step_rows]
            passes = self._passes(len(step))
            for piece in np.array_split(step, passes * self.world)[self.rank :: self.world]:
                yield piece.tolist() if len(piece) else [-1 - int(step[0])]


class _Numbers(Dataset[int]):
    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        return index


def loader(order: StepOrder, collate: Callable[[list[int]], dict[str, Any]]) -> DataLoader:
    """Batches in that order. `collate` makes a batch of row numbers; the batch's rows are noted under "index"."""

    def make(numbers: list[int]) -> dict[str, Any]:
        ghost = numbers[0] < 0
        rows = [-1 - n for n in numbers] if ghost else numbers
        batch = dict(collate(rows))
        batch.setdefault("index", torch.tensor(rows))
        return {**batch, GHOST: True} if ghost else batch

    # Its own generator: a data loader draws a seed when it starts, and must not take it from the run's stream.
    return DataLoader(_Numbers(order.rows), batch_sampler=order, collate_fn=make, generator=torch.Generator())
