"""The arms of a comparison on an encoder: equal steps for all, each with the learning rate that validation picks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pairtune.analysis.predict import Reader, head_outputs
from pairtune.data.task import Task
from pairtune.pair.pair import Pair
from pairtune.reproductions.frame import Results
from pairtune.training.run import tune

log = logging.getLogger("pairtune")


@dataclass(frozen=True)
class Arm:
    """One way of tuning.

    Attributes:
        tuner: by name, or with settings beside the name; a list: the stages of a recipe.
        rates: the learning rates to try, or the name of an arm whose chosen one is taken; none where nothing trains.
        training: what differs from the comparison's settings of training.
    """

    tuner: str | dict[str, Any] | list[dict[str, Any]]
    rates: Sequence[float] | str = ()
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """What the arms of a comparison have in common.

    Attributes:
        settings: base, seeds, steps, batch, precision.
        task: where a seed's task is, made where it is not there yet.
        options: what `Task.load` takes beside the source.
        base: a seed's base, where seeds have bases of their own.
        also: outcomes by split beside those on test, of a tuned pair.
    """

    results: Results
    settings: Mapping[str, Any]
    task: Callable[[int], Path]
    options: Mapping[str, Any]
    base: Callable[[int], str] | None = None
    also: Callable[[Pair], Mapping[str, Any]] | None = None

    def fill(self, arms: Mapping[str, Arm]) -> None:
        """Outcomes on test of what is missing, arm by arm and seed by seed."""
        for name, arm in arms.items():
            rate = self.rate(name, arm)
            for seed in range(self.settings["seeds"]):
                if self.results.missing(name, seed):
                    pair = self.tuned(arm, rate, seed)
                    count_trainable(self.results, name, pair)
                    found = self.right(pair, seed, "test")
                    self.results.add(name, seed, {"test": found, **(self.also(pair) if self.also else {})})
                    log.info("%s, seed %d: %.4f", name, seed, found.mean())

    def rate(self, name: str, arm: Arm) -> float | None:
        """The arm's learning rate, chosen with the first seed where there is a choice; None where nothing trains."""
        if isinstance(arm.rates, str):
            return float(self.results.notes[f"learning rate, {arm.rates}"])
        if len(arm.rates) < 2:
            self.results.note(f"learning rate, {name}", next(iter(arm.rates), None))
            return next(iter(arm.rates), None)

        def trial(rate: float) -> float:
            return float(self.right(self.tuned(arm, rate, 0), 0, "validation").mean())

        return self.results.choose(name, arm.rates, trial)

    def tuned(self, arm: Arm, rate: float | None, seed: int) -> Pair:
        """One run, its last state; nothing of it stays on disk."""
        steps = arm.training.get("max_steps", self.settings["steps"])
        training = {
            "lr": rate, "max_steps": steps, "eval_every": steps, "batch_size": self.settings["batch"], "warmup": 0.1,
            "precision": self.settings["precision"], "keep": 1, **arm.training,
        }  # fmt: skip
        return tune(
            {
                "base": self.base(seed) if self.base else self.settings["base"],
                "data": {"source": str(self.task(seed)), **self.options},
                "stages" if isinstance(arm.tuner, list) else "tuner": arm.tuner,
                "seed": seed,
                "training": training,
            }
        )

    def right(self, pair: Pair, seed: int, split: str) -> np.ndarray:
        """1 for right and 0 for wrong, by row of a split of the seed's task."""
        return right(pair, Task.load(self.task(seed), **self.options), split, self.settings["precision"])


def right(pair: Pair, task: Task, split: str, precision: str, max_length: int | None = None) -> np.ndarray:
    """1 for right and 0 for wrong, by row; `precision` as in training."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found = head_outputs(Reader(pair, task, max_length), task.split(split))
    return (found.argmax(1) == np.array([task.target(row) for row in task.split(split)])).astype(float)


def count_trainable(results: Results, arm: str, pair: Pair) -> None:
    """Keep an arm's trainable numbers: all, and those beside the base (without its norms and the head)."""
    counts = dict(results.notes.get("trainable numbers", {}))
    if arm not in counts:
        own = [(name, p.numel()) for name, p in pair.top.installed.trainable()]
        beside = sum(size for name, size in own if name.startswith("side."))
        results.note("trainable numbers", counts | {arm: {"all": sum(size for _, size in own), "adapters": beside}})
