"""The sets on which the zoo's encoders are probed; none of them may be among what an encoder was pretrained on."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TRAIN, TEST, RATE = 600, 1000, 16_000


@dataclass(frozen=True)
class Probed:
    """One set: items (images [S, S] or [S, S, 3] uint8; waves at `RATE`, of any length) and their classes.

    Attributes:
        x, y: up to `TRAIN` items of the training part. test_x, test_y: up to `TEST` of the test part.
    """

    x: list[np.ndarray]
    y: np.ndarray
    test_x: list[np.ndarray]
    test_y: np.ndarray


def read(folder: Path) -> Probed:
    """A data folder with `train.npz` and `test.npz`, `train.flac` and `test.flac`, or five `foldN.flac`."""
    if (folder / "train.npz").is_file():
        parts = [_images(folder / f"{name}.npz") for name in ("train", "test")]
    elif (folder / "train.flac").is_file():
        parts = [sounds([folder / name], "digit") for name in ("train", "test")]
    else:
        parts = [sounds([folder / f"fold{i}" for i in some], "label") for some in ((1, 2, 3, 4), (5,))]
    return Probed(*_some(*parts[0], TRAIN), *_some(*parts[1], TEST))


def _images(file: Path) -> tuple[list[np.ndarray], np.ndarray]:
    with np.load(file) as found:
        return list(found["x"]), found["y"].astype(int)


def sounds(stems: list[Path], column: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Recordings that lie end to end in `<stem>.flac`, cut as the rows of `<stem>.csv` say, and their classes."""
    import soundfile
    from scipy.signal import resample_poly

    waves, labels = [], []
    for stem in stems:
        whole, rate = soundfile.read(stem.with_suffix(".flac"), dtype="float32")
        with stem.with_suffix(".csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                start = int(row["start"])
                waves.append(resample_poly(whole[start : start + int(row["length"])], RATE, rate).astype(np.float32))
                labels.append(row[column])
    return waves, np.unique(labels, return_inverse=True)[1]


def _some(x: list[np.ndarray], y: np.ndarray, most: int) -> tuple[list[np.ndarray], np.ndarray]:
    """At most so many items, drawn with a fixed seed, of every class as large a share as before."""
    from sklearn.model_selection import train_test_split

    if len(y) > most:
        chosen = np.sort(train_test_split(np.arange(len(y)), train_size=most, random_state=0, stratify=y)[0])
        x, y = [x[i] for i in chosen], y[chosen]
    return x, y
