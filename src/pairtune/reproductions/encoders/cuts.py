"""Cuts of the data folder's images and recordings, written as task folders."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pairtune.pair.staging import staged_folder
from pairtune.reproductions.sources import place

Images = tuple[np.ndarray, np.ndarray]  # [n, H, W] or [n, H, W, C] uint8, and their classes [n]
Rows = list[dict[str, str]]
IMAGES: dict[str, Any] = {"kind": "classification", "text": ["x"], "label": "y"}
SOUNDS: dict[str, Any] = {"kind": "classification", "text": ["audio"]}


def stored(settings: Mapping[str, Any], name: str, part: str) -> Images:
    """A part of a set of images, in one order for all runs: some sets are stored by kind."""
    with np.load(place(settings, name) / f"{part}.npz", allow_pickle=False) as file:
        x, y = file["x"], file["y"]
    order = np.random.RandomState(0).permutation(len(x))
    return x[order], y[order]


def drawn(images: Images, each: int, seed: int) -> Images:
    """So many of each class, drawn by a seed."""
    x, y = images
    chosen = _some_of_each(y, each, seed)
    return x[chosen], y[chosen]


def write_images(folder: Path, splits: Mapping[str, Images]) -> Path:
    """A task folder of images; it appears whole or not at all. Returns it."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with staged_folder(folder) as staging:
            for split, (x, y) in splits.items():
                np.savez(staging / f"{split}.npz", x=x, y=y)
    return folder


def recordings(settings: Mapping[str, Any], name: str, part: str) -> Rows:
    """The rows of `<part>.csv` of a set of recordings, each a stretch of `<part>.flac`, which a column names then."""
    file = place(settings, name) / f"{part}.csv"
    with file.open(encoding="utf-8", newline="") as lines:
        return [{**row, "audio": str(file.with_suffix(".flac").resolve())} for row in csv.DictReader(lines)]


def write_sounds(folder: Path, splits: Mapping[str, Rows], label: str, each: int, seed: int) -> Path:
    """A task folder of tables; of `train` so many rows of each label, drawn by a seed. Returns it."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with staged_folder(folder) as staging:
            for split, rows in splits.items():
                if split == "train":
                    rows = [rows[i] for i in _some_of_each([row[label] for row in rows], each, seed)]
                with (staging / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
                    table = csv.DictWriter(file, list(rows[0]))
                    table.writeheader()
                    table.writerows(rows)
    return folder


def _some_of_each(labels: Sequence[Any] | np.ndarray, each: int, seed: int) -> np.ndarray:
    """The places of so many items of each label."""
    generator, found = np.random.RandomState(seed), np.asarray(labels)
    return np.concatenate([generator.permutation(np.flatnonzero(found == one))[:each] for one in np.unique(found)])
