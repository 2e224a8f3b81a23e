"""The skill: which of some intents a request has, tuned by the language-model loss of the intent's words alone."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pairtune.analysis.answers import ask
from pairtune.analysis.predict import Reader
from pairtune.data.split import Split
from pairtune.data.task import Task
from pairtune.pair.complete import is_complete
from pairtune.pair.files import open_safetensors
from pairtune.pair.installed import DELTA_FILE
from pairtune.pair.pair import Pair
from pairtune.reproductions.sources import rows_of, write_task
from pairtune.training.run import tune

FILES = {"train": "train", "validation": "val", "test": "test"}


@dataclass
class Skill:
    """The task and the one recipe by which every base is tuned on it."""

    folder: Path
    settings: dict[str, Any]

    @property
    def _source(self) -> dict[str, Any]:
        return {"source": str(self.folder), "kind": "classification", "text": "text", "label": "intent"}

    @cached_property
    def task(self) -> Task:
        """Requests of `intents` of CLINC150's intents, drawn by a fixed seed."""
        if not is_complete(self.folder):
            rows = {split: rows_of(self.settings, "clinc150", file) for split, file in FILES.items()}
            names = sorted({row["intent"] for row in rows["train"]})
            chosen = set(random.Random(0).sample(names, self.settings["intents"]))
            kept = {split: [row for row in found if row["intent"] in chosen] for split, found in rows.items()}
            write_task(self.folder, kept)
        return Task.load(**self._source)

    def tuned(
        self,
        base: Path,
        out: Path,
        seed: int,
        rate: float,
        *,
        steps: int | None = None,
        start: Path | None = None,
        every: int | None = None,
    ) -> Pair:
        """The pair in `out`, tuned now if it is not there.

        Args:
            steps: optimizer steps; None: the recipe's. start: a moved pair to begin at.
            every: keep the states after every so many steps, beside the pair.
        """  # fmt: skip
        if is_complete(out):
            return Pair.load(out)
        assert self.task  # its files are there
        steps = steps or self.settings["steps"]
        training = {name: self.settings[name] for name in ("batch_size", "max_length", "precision")}
        config = {
            "base": str(base),
            "data": self._source,
            "tuner": "full",
            "objective": {"name": "lm", "completion_only": True},
            "training": training
            | {"lr": rate, "max_steps": steps, "warmup": 0.03, "eval_every": steps, "save_every": every or steps}
            | {"keep": steps, "metric": "loss"},
            "start": None if start is None else str(start),
            "seed": seed,
            "out": str(out),
        }
        pair = tune(config, restart=True)
        if every is None:
            drop(out, pair=False)
        return pair

    def curve(self, pair: Pair, out: Path) -> list[float]:
        """Accuracy on the test split after every kept state of a run; the pair ends at the last."""
        found = []
        for folder in sorted(run_of(out).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])):
            stored = open_safetensors(folder / DELTA_FILE)
            pair.top.installed.load_state({name: stored.tensor(name) for name in stored})
            found.append(float(self.answers(pair)["accuracy"].mean()))
        return found

    def answers(self, pair: Pair, split: str = "test") -> dict[str, np.ndarray]:
        """Accuracy and loss [N] of the side of a pair that is on."""
        return ask(Reader(pair, self.task, self.settings["max_length"]), self.rows(split)).items

    def rows(self, split: str) -> Split:
        """A split's rows, at most `rows` of them."""
        found = self.task.split(split)
        most = min(len(found), self.settings["rows"])
        return found.select([i * len(found) // most for i in range(most)])


def run_of(out: Path) -> Path:
    """Where a run keeps its states."""
    return out.with_name(out.name + ".run")


def drop(out: Path, pair: bool = True) -> None:
    """Remove what a run kept and, if asked, the pair itself."""
    shutil.rmtree(run_of(out), ignore_errors=True)
    if pair:
        shutil.rmtree(out, ignore_errors=True)
