"""Small changes of training images and sound, other ones in every pass, the same in every run.

What is done to a row depends on seed, pass and row alone, not on batches, processes, or whether a run was resumed.

| name | for | change |
|---|---|---|
| flip | images | mirrored left to right, with probability 1/2 |
| crop | images | an eighth of the side added all round (its edge repeated), a random window of the old size taken |
| masks | sound | up to a quarter of the mel bins and of the frames set to the spectrogram's mean (SpecAugment) |

`masks` has one mask of each kind (Park et al., arXiv 1904.08779, without time warping); a mask's width is uniform from
0 to a quarter, its place uniform. All changes are made on the prepared input, after resizing and normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pairtune.pair.modality import AUDIO, IMAGE

SHARE = 4  # a mask takes a quarter at most
EDGE = 8  # a crop moves by an eighth of the side at most
WAYS: dict[str, tuple[str, ...]] = {"text": (), "image": ("flip", "crop"), "audio": ("masks",)}


class Augmenter:
    """Changes features as the names in `ways` say, in their order."""

    def __init__(self, ways: Sequence[str], seed: int):
        self.ways, self.seed = [_WAYS[way] for way in ways], seed

    def __call__(self, features: Sequence[dict[str, Any]], visit: int) -> list[dict[str, Any]]:
        """The features with their images or spectrograms changed.

        Args:
            features: with `index`, the row's number.
            visit: the number of the pass, from 0.
        """
        return [self._changed(row, np.random.default_rng([self.seed, visit, row["index"]])) for row in features]

    def _changed(self, row: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        key = IMAGE.key if IMAGE.key in row else AUDIO.key
        array = row[key]
        for way in self.ways:
            array = way(array, generator)
        return {**row, key: np.ascontiguousarray(array)}


def flip(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """[C, H, W], mirrored left to right or not."""
    return image[:, :, ::-1] if generator.random() < 0.5 else image


def crop(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """[C, H, W], moved by up to an eighth of its height and width."""
    _, height, width = image.shape
    down, right = max(1, height // EDGE), max(1, width // EDGE)
    top, left = generator.integers(0, 2 * down + 1), generator.integers(0, 2 * right + 1)
    padded = np.pad(image, ((0, 0), (down, down), (right, right)), mode="edge")
    return padded[:, top : top + height, left : left + width]


def masks(spectrogram: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """[frames, mel bins] with a band of each at its mean."""
    frames, bins = spectrogram.shape
    changed, mean = spectrogram.copy(), spectrogram.mean()
    width = generator.integers(0, bins // SHARE + 1)
    start = generator.integers(0, bins - width + 1)
    changed[:, start : start + width] = mean
    width = generator.integers(0, frames // SHARE + 1)
    start = generator.integers(0, frames - width + 1)
    changed[start : start + width] = mean
    return changed


_WAYS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "flip": flip,
    "crop": crop,
    "masks": masks,
}
