"""The token file of a corpus as training batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Windows:
    """Windows of the token file in a seeded order.

    The i-th window depends on i and the seed alone, so that a resumed run needs no state but a counter.
    """

    def __init__(self, path: Path, length: int, seed: int) -> None:
        self.tokens = np.memmap(path, np.uint16, "r")
        self.length, self.seed = length, seed
        self.count = (len(self.tokens) - 1) // length
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __getitem__(self, index: int) -> np.ndarray:
        epoch, place = divmod(index, self.count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.count)
        start = int(self._order[place]) * self.length
        return self.tokens[start : start + self.length + 1]

    def batch(self, first: int, size: int) -> Tensor:
        """`size` windows of length + 1 tokens: inputs and, one to the right, targets."""
        return torch.from_numpy(np.stack([self[i] for i in range(first, first + size)]).astype(np.int64))
