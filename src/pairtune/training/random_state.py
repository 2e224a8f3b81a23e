"""The state of every random number generator that training draws from."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pairtune.errors import FormatError


@dataclass(frozen=True)
class RandomState:
    """State of Python's, NumPy's and torch's generators, and of the accelerator's where there is one."""

    python: Any
    numpy: Any
    torch: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """Cheap enough for every step: nothing is converted."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)

    def restore(self, device: torch.device) -> None:
        """Put all generators back to this state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda, device)

    def tensors(self) -> dict[str, Tensor]:
        """For a file; names and shapes do not change during a run."""
        _, words, gauss = self.python
        _, keys, position, has_gauss, cached = self.numpy
        tensors = {
            "python": torch.tensor(words, dtype=torch.int64),
            "numpy": torch.tensor([*map(int, keys), int(position), int(has_gauss)], dtype=torch.int64),
            # A normal deviate that was drawn in a pair and not used yet: whether there is one, and its value.
            "gauss": torch.tensor([float(gauss is not None), gauss or 0.0, float(cached)], dtype=torch.float64),
            "torch": self.torch,
        }
        return tensors if self.cuda is None else {**tensors, "cuda": self.cuda}

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> RandomState:
        """The inverse of `tensors`. Raises `FormatError` where a generator's state is missing or of another size."""
        missing = {"python", "numpy", "gauss", "torch"} - tensors.keys()
        if missing:
            raise FormatError(f"the random state lacks {', '.join(sorted(missing))}")
        words, numbers, gauss = (tensors[name].tolist() for name in ("python", "numpy", "gauss"))
        if len(words) != 625 or len(numbers) != 626 or len(gauss) != 3:
            raise FormatError("the random state has another size than these generators'")
        python = (3, tuple(words), gauss[1] if gauss[0] else None)
        numpy = ("MT19937", np.array(numbers[:-2], dtype=np.uint32), numbers[-2], numbers[-1], gauss[2])
        cuda = tensors.get("cuda")
        return cls(python, numpy, tensors["torch"].clone(), None if cuda is None else cuda.clone())
