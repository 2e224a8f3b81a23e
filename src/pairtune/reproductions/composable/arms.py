"""The arms: how a language delta and a task delta are tuned, and what their sum answers.

Every arm takes the same number of optimizer steps for a delta: a lottery-ticket one half of them in each phase, all
others all of them at once. The lottery tickets of one seed share their first phase, which is the same for every
density. A learning rate is the best out of three on validation with seed 0: by the loss of hidden tokens of B for a
language, by the accuracy in A for a task; all densities take that of the main one. The grids were moved up by one place
after a first run, which had chosen their largest rates on validation.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairtune.analysis.predict import Reader, head_outputs
from pairtune.data.task import Task
from pairtune.pair.apply import install_delta
from pairtune.pair.base import Base
from pairtune.pair.complete import is_complete
from pairtune.pair.delta import Delta
from pairtune.pair.delta_io import load_delta, save_delta
from pairtune.pair.installed import DELTA_FILE
from pairtune.pair.pair import Layer, Pair
from pairtune.pair.staging import staged_folder
from pairtune.reproductions.composable.world import TEXT, TOPICS
from pairtune.reproductions.frame import Results
from pairtune.training.run import tune

log = logging.getLogger("pairtune")
LANGUAGE, TASK = "language", "topics"
MAIN = 0.1  # the density that the claim is judged at
DENSITIES = (0.01, 0.05, MAIN, 0.3)
RATES, BIAS_RATES = (1.5e-3, 5e-3, 1.5e-2), (5e-3, 1.5e-2, 5e-2)
NORMS = {"freeze": {"norms": True}}


def ticket(density: float) -> str:
    """The name of the lottery-ticket arm of a density."""
    return f"LT-SFT {density:.0%}"


DENSE, RANDOM, BITFIT, LORA = "dense", f"rand-SFT {MAIN:.0%}", "BitFit", "LoRA"
# Arm → (tuner, constraints, learning rates); lottery tickets: the second phase.
ARMS: dict[str, tuple[Any, dict[str, Any], tuple[float, ...]]] = {
    **{ticket(d): ({"name": "sparse", "density": d}, NORMS, RATES) for d in (MAIN, *DENSITIES)},
    DENSE: ({"name": "full"}, NORMS, RATES),
    RANDOM: ({"name": "sparse", "density": MAIN, "choose": "random"}, NORMS, RATES),
    BITFIT: ({"name": "bitfit"}, {}, BIAS_RATES),
    LORA: ({"name": "lora", "r": 8, "alpha": 16}, {}, RATES),
}
TICKETS = tuple(ticket(density) for density in DENSITIES)


@dataclass
class Bench:
    """One base, a language and a task on it.

    Attributes:
        tasks: the folder of `world.build`; base: that of `base.pretrain`.
    """

    results: Results
    tasks: Path
    base: Path
    settings: dict[str, Any]

    def rate(self, arm: str, skill: str) -> float:
        """The arm's learning rate for a language or a task, chosen once."""
        arm = ticket(MAIN) if arm in TICKETS else arm
        what = "validation loss" if skill == LANGUAGE else "validation accuracy"

        def trial(rate: float) -> float:
            return self._tuned(arm, skill, rate, 0, self._trial(arm, skill, rate))

        best = self.results.choose(f"{arm}, {skill}", ARMS[arm][2], trial, what)
        kept = self._trial(arm, skill, best)
        if kept.is_dir() and not self._place(arm, skill, 0).exists():
            kept.rename(self._place(arm, skill, 0))
        for rate in ARMS[arm][2]:
            shutil.rmtree(self._trial(arm, skill, rate), ignore_errors=True)
        return best

    def delta(self, arm: str, skill: str, seed: int) -> Delta:
        """An arm's delta of a seed, tuned now where it is not there; a language without its head."""
        rate, place = self.rate(arm, skill), self._place(arm, skill, seed)
        if not is_complete(place / "kept"):
            self._tuned(arm, skill, rate, seed, place)
        base = Base.load(self.base)
        return load_delta(place / "kept" / DELTA_FILE, base=base.stored)

    def answers(self, deltas: list[Delta]) -> dict[str, np.ndarray]:
        """1 or 0 by test row for the base with the sum of some deltas, in both languages."""
        task = Task.load(self.tasks / TASK, **TOPICS)  # type: ignore[arg-type]
        base = Base.load(self.base, task="classification", labels=task.labels)
        together = sum(deltas[1:], deltas[0])
        pair = Pair(base, [Layer(install_delta(base, together), lambda: together)])
        return {name: self._right(pair, task, split) for name, split in (("A", "test"), ("B", "ood/b"))}

    def _right(self, pair: Pair, task: Task, split: str) -> np.ndarray:
        rows = task.split(split)
        found = head_outputs(Reader(pair, task, self.settings["words"] + 2), rows).argmax(1)
        return (found == np.array([task.target(row) for row in rows])).astype(float)

    def _tuned(self, arm: str, skill: str, rate: float, seed: int, place: Path) -> float:
        """Tune one delta, keep it alone, and return its figure on validation."""
        tuner, constraint, _ = ARMS[arm]
        steps = self.settings[f"{skill} steps"]
        training = {
            "lr": rate, "batch_size": 32, "warmup": 0.1, "max_length": self.settings["words"] + 2, "keep": 1,
        }  # fmt: skip
        config: dict[str, Any] = {
            "base": str(self.base),
            "data": {"source": str(self.tasks / skill), **(TEXT if skill == LANGUAGE else TOPICS)},
            "constraint": constraint,
            # A random mask is drawn from the seed: a language's is another than a task's.
            "seed": seed + (1000 if (arm, skill) == (RANDOM, LANGUAGE) else 0),
            "out": str(place / "pair"),
        }
        if arm in TICKETS:
            half = steps // 2
            config["stages"] = [{"tuner": "full"}, {"tuner": tuner, "rewind": True}]
            config["training"] = training | {"max_steps": half, "eval_every": half}
            self._share_first_phase(place, skill, rate, seed)
        else:
            config |= {"tuner": tuner, "training": training | {"max_steps": steps, "eval_every": steps}}
        pair = tune(config, resume=True)
        if arm in TICKETS:
            self._keep_first_phase(place, skill, rate, seed)
        record = pair.top.record["training"]
        delta = pair.delta.drop("cls.*") if skill == LANGUAGE else pair.delta
        with staged_folder(place / "kept") as staging:
            save_delta(delta, staging / DELTA_FILE)
        for left in ("pair", "pair.run"):
            shutil.rmtree(place / left, ignore_errors=True)
        log.info("%s, %s, learning rate %g, seed %d: %s", arm, skill, rate, seed, record["metrics"])
        return float(record["metrics"]["validation loss" if skill == LANGUAGE else "validation accuracy"])

    # The first phase does not know the density: the run of one density continues from what that of another has left.

    def _share_first_phase(self, place: Path, skill: str, rate: float, seed: int) -> None:
        stage, first = place / "pair.run" / "stage-1", self._first(skill, rate, seed)
        if first.is_dir() and not stage.exists():
            stage.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(first, stage)

    def _keep_first_phase(self, place: Path, skill: str, rate: float, seed: int) -> None:
        first = self._first(skill, rate, seed)
        if not first.is_dir():
            first.parent.mkdir(parents=True, exist_ok=True)
            (place / "pair.run" / "stage-1").rename(first)

    def _first(self, skill: str, rate: float, seed: int) -> Path:
        return self.results.folder / "first" / f"{skill}-{rate:g}-{seed}"

    def _place(self, arm: str, skill: str, seed: int) -> Path:
        return self.results.folder / "deltas" / f"{list(ARMS).index(arm)}-{skill}-{seed}"

    def _trial(self, arm: str, skill: str, rate: float) -> Path:
        return self.results.folder / "deltas" / f"{list(ARMS).index(arm)}-{skill}-rate-{rate:g}"
