"""Every way to make one model out of the pool that is compared, each tuned on the same calibration images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pairtune.merging.engine.by_layer import Choice
from pairtune.merging.inputs.sources import Source
from pairtune.merging.search.loop import Found, search
from pairtune.merging.search.models import Merger
from pairtune.merging.search.space import Space
from pairtune.reproductions.masks.net import Segmenter, dice
from pairtune.reproductions.masks.pool import GENERALIST, POOL, Weights
from pairtune.reproductions.masks.scenes import Scenes

Calibration = Mapping[str, Scenes]
Merge = tuple[Choice, ...]


@dataclass
class Bench:
    """One seed's pool and the images by which merges are chosen.

    Attributes:
        calibration: task → its images. trials: merges that each way of choosing may score.
    """

    pool: Mapping[str, Weights]
    calibration: Calibration
    trials: int
    seed: int

    def __post_init__(self):
        self.model = Segmenter().eval()
        self.mergers = {name: self._merger(**options) for name, options in SPACES.items()}

    def _merger(self, **options: Any) -> Merger:
        sources = [Source(name, None, self.pool[name]) for name in POOL]
        base = sources[POOL.index(GENERALIST)]
        space = Space.of(POOL, base.names, base=POOL.index(GENERALIST), **options)
        return Merger(sources, base, space, limit=400 << 20)

    def weights(self, space: str, choices: Merge) -> Weights:
        """A merged model."""
        return self.mergers[space].tensors(choices)

    def scores(self, weights: Mapping[str, Tensor], images: Scenes) -> np.ndarray:
        """[N] Dice."""
        return dice(self.model, weights, images.images, images.boxes, images.masks).numpy()

    def means(self, weights: Mapping[str, Tensor], images: Calibration) -> dict[str, float]:
        """Mean Dice of each task."""
        return {task: float(self.scores(weights, some).mean()) for task, some in images.items()}

    # -- ways to choose ----------------------------------------------------------------------------------------------

    def searched(self, images: Calibration, space: str = "layers", sampler: Any = "forest") -> Found:
        """A search whose objectives are the tasks of `images`; with several, the best mean is taken."""
        merger = self.mergers[space]
        return search(
            merger, lambda weights: self.means(weights, images), trials=self.trials, sampler=sampler, seed=self.seed
        )

    def from_grid(self, choices: Sequence[Choice]) -> dict[str, tuple[Choice, float]]:
        """Task → the best of some merges that are the same in all layers, and its calibration Dice."""
        best: dict[str, tuple[Choice, float]] = {}
        for choice in choices:
            found = self.means(self.weights("one group", (choice,)), self.calibration)
            for task, value in found.items():
                if task not in best or value > best[task][1]:
                    best[task] = (choice, value)
        return best


# What a search may choose: everything in every layer, linear weights in every layer, everything for the whole model.
SPACES: dict[str, dict[str, Any]] = {
    "layers": {},
    "linear": {"operators": ["linear"]},
    "one group": {"one_group": True},
}
VARIANTS = tuple(i for i, name in enumerate(POOL) if name != GENERALIST)


def keep(i: int) -> Choice:
    """One model of the pool as it is."""
    return Choice("keep", (i,), (1.0,))


def fixed() -> dict[str, Choice]:
    """The usual merges that nothing is tuned of."""
    both = (1.0,) * len(VARIANTS)
    return {
        "uniform soup": Choice("linear", tuple(range(len(POOL))), (1.0,) * len(POOL)),
        "slerp, halves": Choice("slerp", VARIANTS, both, (("t", 0.5),)),
        "task arithmetic": Choice("task-arithmetic", VARIANTS, tuple(0.4 * one for one in both)),
        "ties": Choice("ties", VARIANTS, both, (("density", 0.2), ("scale", 1.0))),
    }


def grids(trials: int) -> dict[str, list[Choice]]:
    """Merges with one global coefficient, as many as a search has trials: λ of the sum; of TIES with six densities."""
    both = (1.0,) * len(VARIANTS)
    scales = np.linspace(0.0, 1.5, trials)
    densities = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
    wide = np.linspace(0.2, 2.0, max(trials // len(densities), 1))
    return {
        "tuned task arithmetic": [
            Choice("task-arithmetic", VARIANTS, tuple(float(scale) * one for one in both)) for scale in scales
        ],
        "tuned ties": [
            Choice("ties", VARIANTS, both, (("density", density), ("scale", float(scale))))
            for density in densities
            for scale in wide
        ],
    }
