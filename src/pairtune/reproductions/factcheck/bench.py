"""The arms of the REFLEX reproduction: one tuned pair a seed, and every way of steering it, on the same test claims.

A seed draws the claims and their wrong verdicts, which wrong verdicts CAA and ITI see, the random direction and the
order of tuning; the base stays. Every direction gets the same grid of blocks and strengths, and its choice is made on
validation. "anchored" is whichever of IV and KV has the larger gain there; where neither has any, the tuned model.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from pairtune.data.task import Task
from pairtune.editing.reflex.anchor import Choice, probabilities
from pairtune.editing.reflex.extract import CAA, ITI, IV, KV, RANDOM, REFLEX
from pairtune.editing.reflex.reading import Reading
from pairtune.editing.reflex.run import steer
from pairtune.generation.decoding import Decoding
from pairtune.generation.engine import Writer
from pairtune.generation.vectors import SteeringVectors
from pairtune.pair.complete import is_complete
from pairtune.pair.pair import Pair
from pairtune.reproductions.factcheck.world import World, write_tasks
from pairtune.reproductions.frame import Results
from pairtune.training.run import tune

log = logging.getLogger("pairtune")
BASE, SFT, ANCHORED, SHUFFLED = "base", "tuned", "anchored", "shuffled pairs"
NAMES = {IV: "IV", KV: "KV", CAA: "CAA", ITI: "ITI", RANDOM: "random direction"}
ARMS = (BASE, SFT, *NAMES.values(), ANCHORED, SHUFFLED)
TEST, LOST, GAINED, REASONS = "test", "lost", "gained", "reasons"
TASK: dict[str, Any] = {"kind": "classification", "text": "text", "label": "verdict", "separator": " "}


class Bench:
    """One base, and what is done with it."""

    def __init__(self, results: Results, settings: dict[str, Any], world: World, base: Path):
        self.results, self.settings, self.world, self.base = results, settings, world, base

    def rate(self) -> float:
        """The learning rate with the most right verdicts on validation, by seed 0."""

        def trial(rate: float) -> float:
            data = self._tasks(0)["tuned"]
            reading = Reading(self._tune(0, data, rate), task := Task.load(data, **TASK))
            split = task.split("validation")
            said = probabilities(reading, reading.rows(split), None).argmax(1)
            return float((said == reading.targets(split)).mean())

        return self.results.choose(SFT, self.settings["rates"], trial)

    def run(self, seed: int, rate: float) -> None:
        """All arms of a seed that are not there yet; they share one pair and one extraction."""
        if not any(self.results.missing(arm, seed) for arm in ARMS):
            return
        tasks = self._tasks(seed)
        pair = self._tune(seed, tasks["tuned"], rate, f"seed-{seed}/pair")
        chosen = self._chosen(pair, tasks["tuned"], seed, "vectors")
        shuffled = self._chosen(pair, tasks["shuffled"], seed, "shuffled", only=REFLEX)
        vectors: dict[str, SteeringVectors | None] = {SFT: None}
        vectors |= {NAMES[name]: chosen[name][1] for name in NAMES if name in chosen}
        vectors |= {NAMES[name]: None for name in NAMES if name not in chosen}  # too few pairs: nothing is steered
        for arm, found in ((ANCHORED, chosen), (SHUFFLED, shuffled)):
            mine = max((found[name] for name in REFLEX if name in found), key=lambda one: one[0].gain, default=None)
            vectors[arm] = mine[1] if mine and mine[0].gain > 0 else None
        self._measure(pair, Task.load(tasks["tuned"], **TASK), vectors, seed)

    def _tasks(self, seed: int) -> dict[str, Path]:
        return write_tasks(self.results.folder / f"seed-{seed}" / "tasks", self.world, self.settings, seed)

    def _tune(self, seed: int, data: Path, rate: float, name: str | None = None) -> Pair:
        """The tuned pair; with a name it is kept, and found again."""
        out = None if name is None else self.results.folder / name
        if out is not None and is_complete(out):
            return Pair.load(out, device="cpu")
        steps = self.settings["steps"]
        return tune(
            {
                "base": str(self.base),
                "data": {"source": str(data), "kind": "lm", "text": "text", "label": "answer", "separator": " "},
                "tuner": "full",
                "training": {
                    "lr": rate, "max_steps": steps, "eval_every": steps, "batch_size": 16,
                    "warmup": 0.1, "keep": 1,
                },
                "seed": seed,
                "device": "cpu",
                **({} if out is None else {"out": str(out)}),
            },
            resume=out is not None,
        )  # fmt: skip

    def _chosen(
        self, pair: Pair, data: Path, seed: int, name: str, only: tuple[str, ...] = tuple(NAMES)
    ) -> dict[str, tuple[Choice, SteeringVectors]]:
        """Direction → its choice on validation, and the vector that this is."""
        out, task = self.results.folder / f"seed-{seed}" / name, Task.load(data, **TASK)
        texts = self.results.folder / "general.txt"
        texts.write_text("\n".join(f"{self.world.told(fact)} ." for fact in self.world.left[:96]))
        report = steer(pair, task, out, shots=0, general=str(texts), seed=seed)
        self._note(name, seed, {
            "quadrants": report.quadrants, "missing": report.missing, "chosen": report.chosen,
            "choices": {arm: vars(one.choice) for arm, one in report.arms.items() if one.choice is not None},
            "perplexity": {arm: one.perplexity for arm, one in report.arms.items()},
            "probes": {which: vars(one) for which, one in report.probed.items()},
        })  # fmt: skip
        found = {}
        for arm in only:
            choice = report.arms[arm].choice if arm in report.arms else None
            if choice is not None:
                vector = SteeringVectors.load(out / f"{arm}.safetensors").only(choice.block).scaled(choice.alpha)
                found[arm] = (choice, vector)
        return found

    def _measure(self, pair: Pair, task: Task, vectors: dict[str, SteeringVectors | None], seed: int) -> None:
        reading, split = Reading(pair, task), task.split("test")
        rows, targets = reading.rows(split), reading.targets(split)
        at = np.arange(len(targets))
        with pair.off():
            base = probabilities(reading, rows, None)
        plain = probabilities(reading, rows, None)
        base_right, right = base.argmax(1) == targets, plain.argmax(1) == targets
        kinds = {LOST: base_right & ~right, GAINED: ~base_right & right}
        self._note("test claims by kind", seed, {kind: int(which.sum()) for kind, which in kinds.items()})
        with pair.off():
            self._add(BASE, seed, base, targets, self._reasons(pair, rows, split, None))
        for arm, vector in vectors.items():
            found = plain if vector is None else probabilities(reading, rows, vector)
            rise = (found - plain)[at, targets]
            gains = {kind: [float(rise[which].mean()) if which.any() else 0.0] for kind, which in kinds.items()}
            self._add(arm, seed, found, targets, self._reasons(pair, rows, split, vector), gains)

    def _add(
        self, arm: str, seed: int, found: np.ndarray, targets: np.ndarray, reasons: np.ndarray, gains: Any = None
    ) -> None:
        from sklearn.metrics import f1_score

        said = found.argmax(1)
        self._note("macro F1", seed, {**self._noted("macro F1", seed), arm: f1_score(targets, said, average="macro")})
        none = {kind: [0.0] for kind in (LOST, GAINED)}
        right = (said == targets).astype(float)
        self.results.add(arm, seed, {TEST: right, REASONS: reasons, **(gains or none)})
        log.info("%s, seed %d: %.3f right, reasons %.3f", arm, seed, right.mean(), reasons.mean())

    def _reasons(self, pair: Pair, rows: list[list[int]], split: Any, vector: SteeringVectors | None) -> np.ndarray:
        """[N] 1 where the reason that is written names the true fact."""
        writer = Writer(pair, Decoding.of(max_new_tokens=6), [vector] if vector else [])
        written = writer.continued(rows)
        found = []
        for row, one in zip(split, written, strict=True):
            _, _, entity, relation, *_ = row["text"].split()
            fact = (int(entity[1:]), int(relation[1:]))
            found.append(float(f"because {self.world.told(fact)}" in one.text))
        return np.array(found)

    def _noted(self, what: str, seed: int) -> dict[str, Any]:
        return dict(self.results.notes.get(what, {}).get(str(seed), {}))

    def _note(self, what: str, seed: int, value: Any) -> None:
        self.results.note(what, {**self.results.notes.get(what, {}), str(seed): value})
