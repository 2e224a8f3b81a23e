"""Six segmentation tasks at 32 × 32 pixels from real images: objects on backgrounds, with a box around one of them.

Two belong to the generalist's pretraining (`shapes`, `fashion`), one to each specialist (`cells`, `digits`), and two
are unseen by all (`letters`, `speckle`). Masks are the drawn or photographed object's own pixels; `cells` are cells
between the membranes in electron microscopy, as their annotators saw them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pairtune.reproductions.masks.net import SIDE
from pairtune.reproductions.sources import place

SEEN = ("shapes", "fashion", "cells", "digits")
UNSEEN = ("letters", "speckle")
TASKS = (*SEEN, *UNSEEN)
Scene = tuple[np.ndarray, np.ndarray]  # image [32, 32] from 0 to 1, mask [32, 32] bool
JITTER = 2  # pixels by which each side of a box is moved outwards at most


@dataclass(frozen=True)
class Scenes:
    """Images and boxes [N, 1, 32, 32], normalised; masks [N, 32, 32], bool."""

    images: Tensor
    boxes: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.masks)

    def take(self, rows: Any) -> Scenes:
        """Some of them."""
        return Scenes(self.images[rows], self.boxes[rows], self.masks[rows])

    def shuffled(self, seed: int) -> Scenes:
        """Each image with another one's mask; the boxes stay with the images."""
        order = np.random.default_rng(seed).permutation(len(self))
        return Scenes(self.images, self.boxes, self.masks[np.roll(order, 1)[np.argsort(order)]])

    @staticmethod
    def joined(parts: list[Scenes]) -> Scenes:
        """All of several."""
        return Scenes(*(torch.cat([getattr(one, name) for one in parts]) for name in ("images", "boxes", "masks")))


class Studio:
    """Makes scenes out of the data folder's images.

    `part` is "train", "calibration" or "test". No object and no background of a test is seen before; calibration has
    objects of its own, on backgrounds of the training.
    """

    def __init__(self, settings: Mapping[str, Any]):
        self._folders = {
            name: place(settings, name)
            for name in (
                "cifar10_small",
                "fashion_mnist_mini",
                "membrane_segmentation",
                "mnist_small",
                "omniglot_small",
            )
        }
        self._load, self._tiles = cache(self._loaded), cache(self._unpacked)

    def scenes(self, task: str, part: str, count: int, seed: int) -> Scenes:
        """So many scenes of a task; the same for the same seed."""
        generator = np.random.default_rng([TASKS.index(task), ("train", "calibration", "test").index(part), seed])
        make: Callable[[str, int, np.random.Generator], Scene] = getattr(self, f"_{task}")
        order = generator.permutation(1 << 14)
        found = [make(part, int(order[i]), generator) for i in range(count)]
        images = torch.tensor(np.stack([image for image, _ in found]), dtype=torch.float32)
        masks = torch.tensor(np.stack([mask for _, mask in found]))
        boxes = torch.tensor(np.stack([_box(mask, generator) for _, mask in found]), dtype=torch.float32)
        return Scenes((images[:, None] - 0.5) / 0.25, boxes[:, None], masks)

    # -- the tasks -------------------------------------------------------------------------------------------------

    def _shapes(self, part: str, at: int, generator: np.random.Generator) -> Scene:
        ground = generator.uniform(0.2, 0.8) + 0.15 * _smooth(generator)
        image, mask = ground, np.zeros((SIDE, SIDE), bool)
        for _ in range(2):  # the first is partly hidden by the second, whose mask it is
            mask = _shape(generator)
            level = (ground[mask].mean() + generator.choice([-1, 1]) * generator.uniform(0.25, 0.5)) % 1.0
            image = np.where(mask, level + 0.05 * _smooth(generator), image)
        return _noisy(image, 0.03, generator), mask

    def _fashion(self, part: str, at: int, generator: np.random.Generator) -> Scene:
        item, mask = _placed(self._item("fashion_mnist_mini", part, at), generator, 0.08)
        ground = 0.6 * self._ground(part, generator)
        return _noisy(np.where(mask, 0.25 + 0.75 * item, ground), 0.03, generator), mask

    def _cells(self, part: str, at: int, generator: np.random.Generator) -> Scene:
        from scipy.ndimage import label

        tiles, inside = self._tiles(part)
        while True:
            top, left = generator.integers(0, tiles.shape[1] - 2 * SIDE, 2)
            window = np.s_[at % len(tiles), top : top + 2 * SIDE, left : left + 2 * SIDE]
            image = tiles[window].reshape(SIDE, 2, SIDE, 2).mean((1, 3)) / 255
            inner = inside[window].reshape(SIDE, 2, SIDE, 2).mean((1, 3)) > 0.5
            parts, _ = cast("tuple[np.ndarray, int]", label(inner))
            sizes = np.bincount(parts.ravel())
            fitting = [i for i, size in enumerate(sizes) if i and 40 <= size <= 450]
            if fitting:
                return image, parts == int(generator.choice(fitting))

    def _digits(self, part: str, at: int, generator: np.random.Generator) -> Scene:
        item, mask = _placed(self._item("mnist_small", part, at), generator, 0.35)
        ground = 0.45 + 0.5 * self._ground(part, generator)
        return _noisy(np.where(mask, ground * (1 - 0.75 * item), ground), 0.12, generator), mask

    def _letters(self, part: str, at: int, generator: np.random.Generator) -> Scene:
        item, mask = _placed(self._item("omniglot_small", part, at), generator, 0.35)
        ground = 0.7 * self._ground(part, generator)
        return _noisy(np.where(mask, ground + 0.45 * item, ground), 0.1, generator), mask

    def _speckle(self, part: str, at: int, generator: np.random.Generator) -> Scene:
        item, mask = _placed(self._item("fashion_mnist_mini", part, at), generator, 0.08)
        tiles, _ = self._tiles(part)
        top, left = generator.integers(0, tiles.shape[1] - SIDE, 2)
        ground = tiles[generator.integers(len(tiles)), top : top + SIDE, left : left + SIDE] / 255
        image = np.where(mask, 0.55 * (1 - item) + 0.15, ground)
        return np.clip(image * generator.gamma(20.0, 1 / 20.0, image.shape), 0, 1), mask

    # -- their images ----------------------------------------------------------------------------------------------

    def _item(self, name: str, part: str, at: int) -> np.ndarray:
        """[28, 28], 0 … 1, of the images of a part."""
        if name == "omniglot_small":
            images = self._load(name, "background_small1" if part != "test" else "background_small2")["x"]
            return images[at % len(images)] / 255
        images = self._load(name, "train" if part == "train" else "test")["x"]
        edge = min(len(images) // 4, 1000)
        images = images if part == "train" else images[:edge] if part == "calibration" else images[edge:]
        return images[at % len(images)] / 255

    def _ground(self, part: str, generator: np.random.Generator) -> np.ndarray:
        images = self._load("cifar10_small", "test" if part == "test" else "train")["x"]
        return images[generator.integers(len(images))].mean(-1) / 255

    def _unpacked(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Microscopy [n, 256, 256] and where its cells are; the last slices for tests, two for calibration."""
        stored = self._load("membrane_segmentation", "train" if part == "train" else "test")
        rows = np.full(len(stored["x"]), True)
        if part != "train":
            rows = (stored["image"] < 24) == (part == "calibration")
        return stored["x"][rows], np.unpackbits(stored["y"][rows], axis=-1)

    def _loaded(self, name: str, file: str) -> dict[str, np.ndarray]:
        path: Path = self._folders[name] / f"{file}.npz"
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}


def _placed(item: np.ndarray, generator: np.random.Generator, level: float) -> Scene:
    """An item [28, 28] somewhere on the canvas, and where it is brighter than `level`."""
    canvas = np.zeros((SIDE, SIDE))
    top, left = generator.integers(0, SIDE - 28 + 1, 2)
    canvas[top : top + 28, left : left + 28] = item
    return canvas, canvas > level


def _shape(generator: np.random.Generator) -> np.ndarray:
    """A turned ellipse or rectangle of 8 to 22 pixels."""
    y, x = np.mgrid[:SIDE, :SIDE] - generator.uniform(9, SIDE - 9, 2)[:, None, None]
    turn = generator.uniform(0, np.pi)
    a, b = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    width, height = generator.uniform(4, 11, 2)
    return (
        (a / width) ** 2 + (b / height) ** 2 < 1 if generator.random() < 0.5 else (abs(a) < width) & (abs(b) < height)
    )


def _smooth(generator: np.random.Generator) -> np.ndarray:
    """[32, 32] smooth noise of variance about 1."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(generator.normal(size=(SIDE, SIDE)), 3, mode="wrap")
    return noise / noise.std()


def _noisy(image: np.ndarray, amount: float, generator: np.random.Generator) -> np.ndarray:
    return np.clip(image + amount * generator.normal(size=image.shape), 0, 1)


def _box(mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """[32, 32]: 1 inside a box around the mask, whose sides lie up to `JITTER` pixels further out."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    out = np.zeros(mask.shape)
    if len(rows):
        top, bottom, left, right = generator.integers(0, JITTER + 1, 4)
        out[max(rows[0] - top, 0) : rows[-1] + bottom + 1, max(columns[0] - left, 0) : columns[-1] + right + 1] = 1
    return out
