"""Digits upright and turned by quarter turns, without 6 and 9, which turn into one another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pairtune.reproductions.encoders.cuts import Images, drawn, stored, write_images

SET, ALIKE = "mnist_small", (6, 9)


def digits(settings: Mapping[str, Any], part: str) -> Images:
    """A part of the set without the two that are alike."""
    x, y = stored(settings, SET, part)
    kept = ~np.isin(y, ALIKE)
    return x[kept], y[kept]


def turned(images: Images, seed: int) -> Images:
    """Each image by 0 to 3 quarter turns, drawn by a seed for each."""
    x, y = images
    turns = np.random.RandomState(seed).randint(0, 4, len(x))
    return np.stack([np.rot90(one, turn) for one, turn in zip(x, turns, strict=True)]), y


def all_turns(images: Images) -> Images:
    """Each image in all four turns."""
    x, y = images
    return np.concatenate([np.rot90(x, turn, (1, 2)) for turn in range(4)]), np.tile(y, 4)


def upright_task(folder: Path, settings: Mapping[str, Any], seed: int) -> Path:
    """A seed's task for the model that is made invariant: upright digits from one half of what there is to train on."""
    pool, validation, test = _parts(settings)
    first = tuple(part[: len(part) // 2] for part in pool)
    train = drawn(first, settings["each"], seed)  # type: ignore[arg-type]
    return write_images(folder / "upright" / str(seed), {"train": train, "validation": validation, "test": test})


def turned_task(folder: Path, settings: Mapping[str, Any], seed: int) -> Path:
    """A seed's task for all arms: all turns of digits from the other half; the upright task's others, turned."""
    pool, validation, test = _parts(settings)
    second = tuple(part[len(part) // 2 :] for part in pool)
    splits = {
        "train": all_turns(drawn(second, settings["each"], seed)),  # type: ignore[arg-type]
        "validation": turned(validation, 0),
        "test": turned(test, 1),
    }
    return write_images(folder / "turned" / str(seed), splits)


def _parts(settings: Mapping[str, Any]) -> tuple[Images, Images, Images]:
    """(to train on, validation, test), upright."""
    (x, y), (test_x, test_y) = (digits(settings, part) for part in ("train", "test"))
    held, tested = settings["validation"], settings["test"]
    return (x[held:], y[held:]), (x[:held], y[:held]), (test_x[:tested], test_y[:tested])
