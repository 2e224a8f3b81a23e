"""Pictures for the zoo's vision transformer: drawn characters and fractals in colour, new ones whenever one is seen.

Characters: the drawings of Omniglot's two small background sets (MIT), turned, scaled, moved, in a random colour on a
random ground. Fractals: attractors of random systems of two to four affine maps, drawn by the chaos game, as in
"Pre-training without Natural Images" (Kataoka et al., arXiv 2101.08515); a class is a system and one of four hues, so
that form, texture and colour must all be seen. No photograph is among them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

SIDE = 32
SYSTEMS, HUES = 64, 4
HELD = 3  # of a character's 20 drawings
_POINTS, _STEPS, _DRAWN = 192, 22, 14


class Pictures:
    """Labelled pictures by number.

    Attributes:
        classes: characters first, then fractals.
    """

    def __init__(self, data: Path, seed: int):
        parts = [np.load(data / "omniglot_small" / f"background_small{i}.npz") for i in (1, 2)]
        # Greek and Latin are in both sets; a character is counted once for each, as the sets do.
        labels = [parts[0]["y"].astype(int), parts[1]["y"].astype(int) + int(parts[0]["y"].max()) + 1]
        drawings, names = np.concatenate([part["x"] for part in parts]), np.concatenate(labels)
        self.characters = int(names.max()) + 1
        self.classes = self.characters + SYSTEMS * HUES
        order = np.argsort(names, kind="stable")
        self._drawings = drawings[order].reshape(self.characters, -1, 28, 28)
        self.seed, self._maps = seed, _systems(np.random.default_rng(7))

    def batch(self, first: int, count: int, held: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """[count, 32, 32, 3] uint8 and the classes [count] of so many items; half of them are characters.

        Args:
            held: characters from drawings that training never sees.
        """
        generator = np.random.default_rng([self.seed, int(held), first])
        fractal = generator.random(count) < 0.5
        labels = np.where(
            fractal,
            self.characters + generator.integers(0, SYSTEMS * HUES, count),
            generator.integers(0, self.characters, count),
        )
        masks = np.empty((count, SIDE, SIDE), np.float32)
        where = np.flatnonzero(fractal)
        if len(where):
            systems = (labels[where] - self.characters) // HUES
            masks[where] = self._fractals(systems, generator)
        for i in np.flatnonzero(~fractal):
            masks[i] = self._character(labels[i], generator, held)
        hues = np.where(fractal, ((labels - self.characters) % HUES) / HUES, generator.random(count))
        return _coloured(masks, hues + generator.normal(0, 0.03, count), generator), labels

    def _character(self, label: int, generator: np.random.Generator, held: bool) -> np.ndarray:
        from scipy.ndimage import affine_transform

        drawings = self._drawings[label]
        number = (
            generator.integers(len(drawings) - HELD, len(drawings))
            if held
            else generator.integers(0, len(drawings) - HELD)
        )
        angle, scale = generator.normal(0, 0.15), generator.uniform(0.8, 1.4)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
        shift = np.array([13.5, 13.5]) - turn @ (np.array([15.5, 15.5]) + generator.uniform(-3, 3, 2))
        found = affine_transform(
            drawings[number].astype(np.float32) / 255,
            turn,
            shift,  # type: ignore[arg-type]
            (SIDE, SIDE),
            order=1,
        )
        return np.clip(found * generator.uniform(1, 2), 0, 1)

    def _fractals(self, systems: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        count, rows = len(systems), np.arange(len(systems))[:, None]
        maps = self._maps[systems] * generator.normal(1, 0.03, (count, 4, 6))
        points = generator.normal(size=(count, _POINTS, 2))
        drawn = []
        for step in range(_STEPS):
            chosen = maps[rows, generator.integers(0, 4, (count, _POINTS))]
            x, y = points[..., 0], points[..., 1]
            points = np.stack(
                [
                    chosen[..., 0] * x + chosen[..., 1] * y + chosen[..., 4],
                    chosen[..., 2] * x + chosen[..., 3] * y + chosen[..., 5],
                ],
                axis=-1,
            )
            if step >= _STEPS - _DRAWN:
                drawn.append(points)
        cloud = np.concatenate(drawn, axis=1)
        low, high = cloud.min(1, keepdims=True), cloud.max(1, keepdims=True)
        size = generator.uniform(0.7, 1.0, (count, 1, 1))
        pixels = ((cloud - low) / np.maximum(high - low, 1e-6) * size + generator.uniform(0, 1 - size)) * (SIDE - 1)
        flat = (pixels[..., 1].round() * SIDE + pixels[..., 0].round()).astype(int) + rows * SIDE * SIDE
        hits = np.bincount(flat.ravel(), minlength=count * SIDE * SIDE).reshape(count, SIDE, SIDE)
        return np.minimum(1, hits / 3).astype(np.float32)


def _systems(generator: np.random.Generator) -> np.ndarray:
    """[systems, 4, 6]: four contracting maps each (x' = a x + b y + e, y' = c x + d y + f), some of them alike."""
    found = np.empty((SYSTEMS, 4, 6))
    for i in range(SYSTEMS):
        distinct = generator.integers(2, 5)
        maps = np.empty((distinct, 6))
        for j in range(distinct):
            linear = generator.uniform(-1, 1, (2, 2))
            linear *= generator.uniform(0.4, 0.8) / np.linalg.norm(linear, 2)
            maps[j] = [*linear.ravel(), *generator.uniform(-1, 1, 2)]
        found[i] = maps[np.arange(4) % distinct]
    return found


def _coloured(masks: np.ndarray, hues: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Figures [n, S, S] of 0 to 1 in colours of these hues, on grounds that run from one colour to another."""
    count = len(masks)
    figure = _rgb(hues, generator.uniform(0.4, 1, count), generator.uniform(0.5, 1, count))
    one, other = (
        _rgb(generator.random(count), generator.uniform(0, 0.6, count), generator.uniform(0, 0.6, count))
        for _ in range(2)
    )
    line = np.linspace(0, 1, SIDE, dtype=np.float32)
    angle = generator.uniform(0, 2 * np.pi, count)
    slope = np.cos(angle)[:, None, None] * line[None, :, None] + np.sin(angle)[:, None, None] * line[None, None]
    slope = ((slope - slope.min((1, 2), keepdims=True)) / np.ptp(slope, (1, 2), keepdims=True))[..., None]
    ground = one[:, None, None] * (1 - slope) + other[:, None, None] * slope
    picture = ground * (1 - masks[..., None]) + figure[:, None, None] * masks[..., None]
    picture += generator.normal(0, 1, picture.shape) * generator.uniform(0, 0.06, (count, 1, 1, 1))
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """[n, 3] colours from hue, saturation and value of 0 to 1."""
    ramp = (np.array([5, 3, 1]) + hue[:, None] * 6) % 6
    dark = np.clip(np.minimum(ramp, 4 - ramp), 0, 1)
    return (value[:, None] * (1 - saturation[:, None] * dark)).astype(np.float32)
