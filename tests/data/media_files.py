"""Small folders of images and sound, as people have them: a class a folder, a split around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

COLOURS = {"red": (220, 40, 40), "green": (40, 220, 40), "blue": (40, 40, 220)}


def image(colour: tuple[int, int, int], seed: int, side: int = 18) -> np.ndarray:
    """A noisy patch of one colour, [side, side, 3] uint8."""
    noise = np.random.default_rng(seed).normal(0, 30, (side, side, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def wave(pitch: float, seed: int, rate: int = 8000, seconds: float = 0.3) -> np.ndarray:
    """A noisy tone [N] float32."""
    time = np.arange(int(rate * seconds)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.02, len(time))
    return (0.3 * np.sin(2 * np.pi * pitch * time) + noise).astype(np.float32)


def photos(root: Path, sizes: dict[str, int], classes: dict = COLOURS) -> Path:
    """`root/<split>/<class>/<i>.png`, so many images a class; `ood/<name>` without classes."""
    from PIL import Image

    seed = 0
    for split, count in sizes.items():
        for name, colour in classes.items() if not split.startswith("ood/") else [("", (128, 128, 128))]:
            place = root / split / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                seed += 1
                Image.fromarray(image(colour, seed)).save(place / f"{i}.png")
    return root


def sounds(root: Path, sizes: dict[str, int], suffix: str = "wav", rate: int = 8000) -> Path:
    """`root/<split>/<class>/<i>.wav`, two classes of tones."""
    import soundfile

    seed = 0
    for split, count in sizes.items():
        for name, pitch in {"low": 250.0, "high": 1800.0}.items():
            place = root / split / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                seed += 1
                soundfile.write(place / f"{i}.{suffix}", wave(pitch, seed, rate), rate)
    return root
