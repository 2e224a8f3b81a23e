"""Pictures for the zoo's vision transformer: the drawings of `picture_bank.py`, drawn anew whenever one is seen.

Turned, stretched, bent, moved, in thicker lines, shaded and striped. Half of them are in colour, on a ground that runs
from one colour to another; the other half are grey on black, as scanned things are.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pairtune.zoo.picture_bank import KINDS

SIDE = 32
SHARES = (0.3, 0.3, 0.25, 0.15)  # of KINDS among the items
_LUMA = torch.tensor([0.299, 0.587, 0.114])


class Pictures:
    """Labelled pictures by number.

    Attributes:
        classes: how many there are. kinds: of each class [classes], its place in KINDS. about: what is in the bank.
    """

    def __init__(self, bank: Path, seed: int):
        self.seed = seed
        self._drawings = np.load(bank / "pictures.npy", mmap_mode="r")
        with np.load(bank / "index.npz") as file:
            self._labels, held, self.kinds = file["label"], file["held"], file["kind"]
        self.classes = len(self.kinds)
        self.about = json.loads((bank / "about.json").read_text(encoding="utf-8"))
        self._pools = {apart: self._pool(held == apart) for apart in (False, True)}

    def _pool(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(drawings in the order of their classes, where each class begins [classes], how many it has [classes])."""
        drawings = np.flatnonzero(chosen)
        drawings = drawings[np.argsort(self._labels[drawings], kind="stable")]
        counts = np.bincount(self._labels[drawings], minlength=self.classes)
        return drawings, np.cumsum(counts) - counts, counts

    def batch(self, first: int, count: int, held: bool = False) -> tuple[Tensor, np.ndarray, Tensor]:
        """[count, 3, 32, 32] of -1 to 1, the classes [count], and [count, 1, 32, 32] of 0 to 1: figures on black.

        Args:
            held: of drawings that training never sees; classes of which there are none do not occur.
        """
        drawings, begins, counts = self._pools[held]
        generator = np.random.default_rng([self.seed, int(held), first])
        labels = np.empty(count, dtype=int)
        kinds = generator.choice(len(KINDS), count, p=SHARES)
        for kind in range(len(KINDS)):
            there = np.flatnonzero((self.kinds == kind) & (counts > 0))
            labels[kinds == kind] = generator.choice(there, int((kinds == kind).sum()))
        numbers = drawings[begins[labels] + (generator.random(count) * counts[labels]).astype(int)]
        drawn = torch.from_numpy(self._drawings[numbers]).permute(0, 3, 1, 2).float() / 255
        random = torch.Generator().manual_seed(int(generator.integers(2**62)))
        pictures, clean = _shown(drawn, torch.from_numpy(kinds > 0), random)
        return pictures * 2 - 1, labels, clean


def _shown(drawn: Tensor, line: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Drawings [n, 4, s, s] as pictures [n, 3, SIDE, SIDE]; `line` [n]: those that have a form but no colours."""
    n = len(drawn)
    some = lambda low, high, *shape: _uniform(random, low, high, n, *(shape or (1, 1, 1)))  # noqa: E731
    opacity = drawn[:, 3:]
    thicker = F.max_pool2d(opacity, 3, 1, 1) - opacity
    opacity = opacity + thicker * some(-1, 1).clamp_min(0) * line[:, None, None, None]
    seen = F.grid_sample(torch.cat([drawn[:, :3] * opacity, opacity], 1), _grid(n, random), align_corners=False)
    colour, opacity = seen[:, :3], seen[:, 3:]
    grey = (torch.rand(n, 1, 1, 1, generator=random) < 0.5).float()
    tint = torch.where(line[:, None, None, None], some(0, 1, 3, 1, 1), some(0.8, 1.2, 3, 1, 1))
    lift = some(0, 0.4)
    light = (colour * _LUMA[:, None, None]).sum(1, keepdim=True) * (1 - lift) + lift * opacity
    figure = grey * light * some(0.6, 1.0) + (1 - grey) * colour * tint
    figure = figure * (1 + _clouds(n, random) + _stripes(n, random) * line[:, None, None, None])
    ends, slope = some(0, 1, 2, 3, 1, 1), _slope(n, random)
    ground = (ends[:, 0] * slope + ends[:, 1] * (1 - slope)) * (1 - grey)
    noise = torch.randn(n, 3, SIDE, SIDE, generator=random) * some(0, 0.04) * (1 - grey)
    return (ground * (1 - opacity) + figure + noise).clamp_(0, 1), figure.clamp(0, 1).mean(1, keepdim=True)


def _uniform(random: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=random) * (high - low) + low


def _grid(n: int, random: torch.Generator) -> Tensor:
    """[n, SIDE, SIDE, 2] where in a drawing (-1 to 1) each pixel is taken from."""
    angle, shear = (torch.randn(n, generator=random) * spread for spread in (0.15, 0.2))
    size = _uniform(random, 0.65, 1.1, n)
    stretch = torch.exp(torch.randn(n, generator=random) * 0.12)
    turned = torch.stack([angle.cos(), -angle.sin() + shear, angle.sin(), angle.cos()], 1).reshape(n, 2, 2)
    scale = torch.stack([1 / (size * stretch), stretch / size], 1)
    shift = _uniform(random, -0.2, 0.2, n, 2) * scale
    grid = F.affine_grid(torch.cat([turned * scale[:, None], shift[..., None]], 2), [n, 1, SIDE, SIDE], False)
    bend = torch.randn(n, 2, 4, 4, generator=random) * _uniform(random, 0, 0.12, n, 1, 1, 1)
    return grid + _smooth(bend).permute(0, 2, 3, 1)


def _clouds(n: int, random: torch.Generator) -> Tensor:
    """[n, 1, SIDE, SIDE] by how much a figure is lighter (or darker) from place to place."""
    return _smooth(torch.randn(n, 1, 4, 4, generator=random)) * _uniform(random, 0, 0.25, n, 1, 1, 1)


def _stripes(n: int, random: torch.Generator) -> Tensor:
    """[n, 1, SIDE, SIDE]: the same in stripes of any width and direction, which a third of the figures have."""
    way = torch.randn(n, 2, 1, 1, generator=random) * 15
    line = torch.linspace(-1, 1, SIDE)
    wave = torch.sin(way[:, :1] * line[:, None] + way[:, 1:] * line + _uniform(random, 0, 6.28, n, 1, 1, 1))
    return wave * _uniform(random, -0.8, 0.4, n, 1, 1, 1).clamp_min(0)


def _slope(n: int, random: torch.Generator) -> Tensor:
    """[n, 1, SIDE, SIDE] from 0 to 1 along a line of any direction."""
    angle, line = _uniform(random, 0, 6.28, n, 1, 1, 1), torch.linspace(-1, 1, SIDE)
    return (0.5 + (angle.cos() * line[:, None] + angle.sin() * line) / 2).clamp(0, 1)


def _smooth(coarse: Tensor) -> Tensor:
    return F.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=False)
