"""Digits, clothes, characters, and what is done to them: float tensors [N, 1, 28, 28] in 0 … 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pairtune.reproductions.sources import place

DIGITS, CLOTHES, CHARACTERS = 10, 10, 136
OOD = ("ood/inverted", "ood/rotated", "ood/noisy", "ood/edges", "ood/other-font")
KINDS = ("plain", "inverted", "rotated", "noisy", "edges")


@dataclass(frozen=True)
class Set:
    """Images [N, 1, 28, 28] and their classes [N]."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, places: slice | Tensor) -> Set:
        """Some of them."""
        return Set(self.x[places], self.y[places])


def pretraining(settings: Mapping[str, Any]) -> Set:
    """Digits of two sources, clothes and characters of five alphabets, each with classes of its own, undistorted.

    Distortions are drawn while training.
    """
    clothes = _stored(place(settings, "fashion_mnist_mini") / "train.npz")
    characters = _stored(place(settings, "omniglot_small") / "background_small1.npz")
    own = settings["pretraining"]
    parts = [
        mnist(settings, "train").take(slice(-own, None)),
        other_font().take(slice(0, own // 3)),
        Set(clothes.x, clothes.y + DIGITS),
        Set(characters.x, characters.y + DIGITS + CLOTHES),
    ]
    return Set(torch.cat([one.x for one in parts]), torch.cat([one.y for one in parts]))


def tuning(settings: Mapping[str, Any], seed: int) -> Set:
    """Clean digits that pretraining has not seen; another draw for every seed."""
    digits = mnist(settings, "train")
    free = len(digits) - settings["pretraining"]
    drawn = torch.randperm(free, generator=torch.Generator().manual_seed(seed))[: settings["train"]]
    return digits.take(drawn)


def tests(settings: Mapping[str, Any]) -> dict[str, Set]:
    """ID validation and test, and the OOD splits; all of different images, but for the distortions of the test's."""
    digits, n, m = mnist(settings, "test"), settings["validation"], settings["test"]
    test = digits.take(slice(n, n + m))
    found = {"validation": digits.take(slice(0, n)), "test": test}
    for kind in KINDS[1:]:
        found[f"ood/{kind}"] = Set(distorted(test.x, [kind] * len(test), torch.Generator().manual_seed(7)), test.y)
    return found | {"ood/other-font": other_font().take(slice(-m, None))}


def mnist(settings: Mapping[str, Any], part: str) -> Set:
    """The stored digits in a random order: those of the test are stored by their numbers, the harder ones later."""
    found = _stored(place(settings, "mnist_small") / f"{part}.npz")
    return found.take(torch.from_numpy(np.random.RandomState(0).permutation(len(found))))


def other_font() -> Set:
    """The 8 × 8 digits that scikit-learn ships (other writers, another scanner), enlarged."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(x)))
    return Set(F.interpolate(x, (28, 28), mode="bilinear")[order], torch.tensor(found.target)[order])


def _stored(file: Path) -> Set:
    with np.load(file, allow_pickle=False) as stored:
        x, y = stored["x"], stored["y"]
    return Set(torch.tensor(x, dtype=torch.float32)[:, None] / 255, torch.tensor(y.astype(np.int64)))


# -- what is done to them --------------------------------------------------------------------------------------------


def distorted(x: Tensor, kinds: list[str], generator: torch.Generator) -> Tensor:
    """Each image [N, 1, 28, 28] in the manner of its kind."""
    out = x.clone()
    for kind in dict.fromkeys(kinds):
        here = torch.tensor([one == kind for one in kinds])
        out[here] = MANNERS[kind](x[here], generator)
    return out


def drawn(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image in a manner drawn at random: the diversity of pretraining."""
    which = torch.randint(len(KINDS), (len(x),), generator=generator)
    return distorted(x, [KINDS[i] for i in which.tolist()], generator)


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Small turns, shifts and changes of size: the ordinary augmentation of tuning."""
    angle = (torch.rand(len(x), generator=generator) - 0.5) * 0.5
    shift = (torch.rand(len(x), 2, generator=generator) - 0.5) * 0.3
    size = 1 + (torch.rand(len(x), generator=generator) - 0.5) * 0.3
    return _turned(x, angle, shift, size)


def _inverted(x: Tensor, generator: torch.Generator) -> Tensor:
    return 1 - x


def _rotated(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turned by 25 to 50 degrees to either side."""
    sign = torch.randint(2, (len(x),), generator=generator) * 2 - 1
    angle = sign * torch.deg2rad(25 + 25 * torch.rand(len(x), generator=generator))
    return _turned(x, angle, torch.zeros(len(x), 2), torch.ones(len(x)))


def _noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blurred, then under noise."""
    blurred = F.avg_pool2d(x, 3, stride=1, padding=1)
    return (blurred + 0.35 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def _edges(x: Tensor, generator: torch.Generator) -> Tensor:
    """A drawing of the outlines (Sobel)."""
    across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    both = torch.stack([across, across.T])[:, None]
    return F.conv2d(x, both, padding=1).square().sum(1, keepdim=True).sqrt().div(3).clamp(0, 1)


def _turned(x: Tensor, angle: Tensor, shift: Tensor, size: Tensor) -> Tensor:
    cosine, sine = angle.cos() / size, angle.sin() / size
    rows = [torch.stack([cosine, -sine, shift[:, 0]], 1), torch.stack([sine, cosine, shift[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


MANNERS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "plain": lambda x, generator: x,
    "inverted": _inverted,
    "rotated": _rotated,
    "noisy": _noisy,
    "edges": _edges,
}
