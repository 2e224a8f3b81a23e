"""The arms of the LEVI reproduction: what each tunes, how its learning rate is chosen, what it answers.

Every stage of every arm has the same number of passes, with early stopping on ID validation, and a learning rate out of
four, chosen on ID validation with seed 0. Nothing is chosen on a test split.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pairtune.analysis.predict import Reader, head_outputs
from pairtune.data.split import Split
from pairtune.data.task import Task
from pairtune.pair.outputs import model_inputs
from pairtune.pair.pair import Pair, evaluating
from pairtune.pair.staging import staged_folder
from pairtune.reproductions.frame import Results
from pairtune.training.run import tune
from pairtune.tuners.cache import ActivationCache

FROZEN_RATES, TUNED_RATES = (3e-4, 1e-3, 3e-3, 1e-2), (1e-5, 3e-5, 1e-4, 3e-4)
LEVI: dict[str, Any] = {"name": "levi"}
# Arm → (tuner or stages, grid of learning rates).
ARMS: dict[str, tuple[Any, tuple[float, ...]]] = {
    # On the mean of the last block's tokens, as this encoder was trained to be read.
    "linear probe": (LEVI | {"layers": "last", "small": "none", "depth": 1}, FROZEN_RATES),
    "LEVI": (LEVI, FROZEN_RATES),
    "(a) no small model": (LEVI | {"small": "none"}, FROZEN_RATES),
    "(b) last block only": (LEVI | {"layers": "last"}, FROZEN_RATES),
    "(c) small model alone": (LEVI | {"layers": "none"}, FROZEN_RATES),
    "(d) dependent view": (LEVI | {"view": "base"}, FROZEN_RATES),
    "(g) random base": (LEVI | {"random_base": 1}, FROZEN_RATES),
    "full tuning": ({"name": "full"}, TUNED_RATES),
    "the model's own head": ({"name": "head"}, FROZEN_RATES),
    "LP-FT": ([{"tuner": {"name": "head"}, "training": {"lr": 3e-3}}, {"tuner": {"name": "full"}}], TUNED_RATES),
    # On what the arm "full tuning" has left with the same seed.
    "LEVI on the tuned base": (LEVI, FROZEN_RATES),
}
PROBE, SMALL, FULL, ENSEMBLE = "linear probe", "(c) small model alone", "full tuning", "(e) output ensemble"
NO_SMALL, ON_TUNED = "(a) no small model", "LEVI on the tuned base"


@dataclass
class Bench:
    """One task on one base, on which arms are tuned.

    Attributes:
        data: the task's folder. base: what the arms stand on.
        condition: what tells this bench's arms from those of others in the same results ("" for none).
    """

    results: Results
    task: Task
    data: Path
    base: str
    settings: dict[str, Any]
    condition: str = ""

    def named(self, arm: str) -> str:
        """The arm's name in the results."""
        return f"{arm}, {self.condition}" if self.condition else arm

    def missing(self, arm: str) -> Iterator[int]:
        """The seeds with which the arm still has to be run."""
        return (seed for seed in range(self.settings["seeds"]) if self.results.missing(self.named(arm), seed))

    def rate(self, arm: str) -> float:
        """The learning rate with the best ID validation accuracy, seed 0; chosen once and kept."""
        split = self.task.split("validation")
        # The larger of equal rates comes first: with the same epochs it is the less under-trained one.
        rates = sorted(ARMS[arm][1], reverse=True)
        return self.results.choose(
            self.named(arm), rates, lambda rate: self.right(self.answers(self.tuned(arm, rate, 0), split), split).mean()
        )

    def tuned(self, arm: str, rate: float, seed: int) -> Pair:
        """Tune one arm. Runs share the cached activations of the frozen base, which depend on no seed."""
        tuner = ARMS[arm][0]
        base = str(self.tuned_base(seed)) if arm == ON_TUNED else self.base
        out = self.folder("arms.sweep") / f"{list(ARMS).index(arm)}-{rate:g}-{seed}"
        training = {name: self.settings[name] for name in ("epochs", "max_length", "precision")}
        training |= {"lr": rate, "batch_size": 16, "metric": "accuracy", "patience": 3, "keep": 1}
        config: dict[str, Any] = {"base": base, "data": str(self.data), "seed": seed, "out": str(out)}
        config |= {"training": training, "stages" if isinstance(tuner, list) else "tuner": tuner}
        pair = tune(config, restart=True)
        for folder in (out, out.with_name(out.name + ".run")):
            shutil.rmtree(folder, ignore_errors=True)
        return pair

    def tuned_base(self, seed: int, pair: Pair | None = None) -> Path:
        """The base that full tuning leaves with that seed, without its head; written where it is not there.

        Args:
            pair: the pair of that arm and seed, where it is at hand; else it is tuned once more.
        """
        folder = self.folder("tuned-bases") / str(seed)
        if not folder.is_dir():
            save_backbone(pair or self.tuned(FULL, self.rate(FULL), seed), folder)
        return folder

    def answers(self, pair: Pair, split: Split) -> np.ndarray:
        """[N, C] log-probabilities. What a frozen base says of a text is computed once for all arms that read it so."""
        reader = Reader(pair, self.task, self.settings["max_length"])
        installed: Any = pair.top.installed
        if len(pair.layers) > 1 or "cacheable" not in installed.provides:
            return head_outputs(reader, split)
        cache = ActivationCache.open(
            self.folder("arms.sweep") / "test-activations",
            pair.base,
            installed,
            data=split.fingerprint,
            rows=len(split),
            max_length=self.settings["max_length"],
        )
        found = np.zeros((len(split), len(self.task.labels)))
        with torch.inference_mode(), evaluating(pair.model):
            for rows, batch in reader.batches(split):
                features = cache.features(batch | {"index": torch.tensor(rows)}, installed.features)
                logits = installed.model(**model_inputs(batch | {"features": features})).logits
                found[rows] = logits.float().log_softmax(-1).cpu().numpy()
        return found

    def right(self, answers: np.ndarray, split: Split) -> np.ndarray:
        """[N] whether the likeliest class is the row's."""
        return answers.argmax(1) == np.array([self.task.target(row) for row in split])

    def kept(self, arm: str, seed: int) -> Path:
        """Where an arm's answers are kept: log-probabilities [N, C] by split."""
        return self.folder("outputs") / f"{list(ARMS).index(arm)}-{seed}.npz"

    def folder(self, name: str) -> Path:
        """A folder of this bench's own beside the results."""
        place = self.results.folder / self.condition.replace(" ", "-") / name
        place.mkdir(parents=True, exist_ok=True)
        return place


def save_backbone(pair: Pair, folder: Path) -> None:
    """Write the variant without its head as a base of its own."""
    write_model(folder, pair.model.base_model, pair.tokenizer)


def write_model(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write a checkpoint's folder; it appears whole or not at all."""
    with staged_folder(folder) as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)


def ensemble(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The mean of two models' probabilities, up to a constant, from their log-probabilities [N, C] by split."""
    return {split: np.logaddexp(one[split], two[split]) for split in one}


def load_answers(path: Path) -> dict[str, np.ndarray]:
    """What `Bench.kept` holds."""
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)
