"""The variants of the reproduction: all weights of a base tuned on ID texts alone, by the language-model loss.

The learning rate is the one out of three with the lowest ID validation loss with seed 0; the checkpoint of every run is
the one with the lowest. No label is used, no OOD text is seen, and nothing is chosen on a test split.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pairtune.data.task import Task
from pairtune.pair.complete import is_complete
from pairtune.pair.pair import Pair
from pairtune.reproductions.frame import Results
from pairtune.reproductions.likelihood.sets import Ground
from pairtune.reproductions.sources import write_task
from pairtune.training.run import tune

RATES = (3e-4, 1e-3, 3e-3)


@dataclass
class Bench:
    """One base and one ID set, on which a variant is tuned for every seed.

    Attributes:
        name: unique in the results; the folder's, too.
        results: where choices are kept, and the variants in a folder beside them.
        columns: how the rows are read, where they are more than texts.
    """

    name: str
    results: Results
    ground: Ground
    settings: dict[str, Any]
    base: str = ""
    columns: dict[str, Any] = field(default_factory=lambda: {"text": "text"})

    @property
    def folder(self) -> Path:
        """What is kept of the bench: the task and the variants."""
        return self.results.folder / "variants" / self.name.replace(" ", "-")

    @cached_property
    def task(self) -> Task:
        """The texts to tune on."""
        if not (self.folder / "task").is_dir():
            write_task(self.folder / "task", {"train": self.ground.train, "validation": self.ground.validation})
        return Task.load(**self._source)

    @property
    def _source(self) -> dict[str, Any]:
        return {"source": str(self.folder / "task"), "kind": "lm", "name": self.name, **self.columns}

    @cached_property
    def rate(self) -> float:
        """The learning rate with the lowest ID validation loss, seed 0; chosen once and kept."""
        best = self.results.choose(self.name, RATES, self._loss, "validation loss")
        for rate in RATES:
            if is_complete(self._trial(rate)) and rate == best and not is_complete(self._place(0)):
                self._trial(rate).rename(self._place(0))
            shutil.rmtree(self._trial(rate), ignore_errors=True)
        return best

    def variant(self, seed: int) -> Pair:
        """The variant of a seed: the kept one, else tuned now."""
        rate, place = self.rate, self._place(seed)
        return Pair.load(place) if is_complete(place) else self._tuned(rate, seed, place)

    def saved(self, seed: int) -> Path:
        """The folder of a seed's variant."""
        self.variant(seed)
        return self._place(seed)

    def drop(self) -> None:
        """Remove the variants, once all that is asked of them is known."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _place(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}"

    def _loss(self, rate: float) -> float:
        return self._tuned(rate, 0, self._trial(rate)).top.record["training"]["metrics"]["validation loss"]

    def _trial(self, rate: float) -> Path:
        return self.folder / f"rate-{rate:g}"

    def _tuned(self, rate: float, seed: int, out: Path) -> Pair:
        training = {name: self.settings[name] for name in ("epochs", "batch_size", "max_length", "precision")}
        assert self.task  # its files are there
        config = {
            "base": self.base or self.settings["base"],
            "data": self._source,
            "tuner": "full",
            "objective": {"name": "lm", "completion_only": False},
            "training": training | {"lr": rate, "warmup": 0.1, "schedule": "cosine", "metric": "loss", "keep": 1},
            "seed": seed,
            "out": str(out),
        }
        pair = tune(config, restart=True)
        shutil.rmtree(out.with_name(out.name + ".run"), ignore_errors=True)
        return pair
