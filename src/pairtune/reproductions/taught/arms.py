"""The arms of the reproduction of FineTuneBench: how each is taught facts, and what is asked of it then."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pairtune.analysis.answers import evenly
from pairtune.analysis.forgetting import general_task
from pairtune.analysis.knowledge import written
from pairtune.analysis.predict import Reader, token_losses
from pairtune.data.knowledge import MEMORISED, PREFIXED, Question, is_right, says
from pairtune.data.knowledge_made import Stated, questions, training_rows
from pairtune.pair.base import Base
from pairtune.pair.pair import Pair
from pairtune.reproductions.frame import Results
from pairtune.reproductions.locft.world import stories
from pairtune.reproductions.taught import world
from pairtune.training.run import tune

log = logging.getLogger("pairtune")
REPHRASED, SECONDARY, COMPARISON, UNKNOWN = "rephrased", "secondary", "comparison", "unknown"
MADE_UP, GENERAL, FACTS, OTHERWISE, OLD = "made up", "general", "facts", "otherwise", "old answer"
DERIVED = (SECONDARY, COMPARISON)
KINDS = (MEMORISED, REPHRASED, PREFIXED, *DERIVED)
VALIDATION = 100  # seed of the people on whom rates are chosen; those of the runs that count are 101 and up


@dataclass(frozen=True)
class Arm:
    """One way to teach.

    Attributes:
        tuner: by name, or with settings. rates: whose learning rate it takes, by the name in the settings.
        paraphrases: wordings beside the one. changed: other values of known facts, in the place of new people's.
    """

    tuner: str | dict[str, Any]
    rates: str
    epochs: int
    paraphrases: int = 0
    changed: bool = False


@dataclass
class Bench:
    """The base, who it knows, and what is taught to whom."""

    results: Results
    settings: Mapping[str, Any]

    @cached_property
    def known(self) -> list[Stated]:
        """Facts of which the base has read every question."""
        return world.people(self.settings["known"], 0)

    @cached_property
    def plain(self) -> list[Stated]:
        """Facts of which it has read the plain wordings alone."""
        return world.people(self.settings["plain"], 1, self.known)

    @cached_property
    def base(self) -> Path:
        """The folder of the base, made where it is not there yet."""
        return world.teach(self.results.folder / "base", self.known, self.plain, self.settings)

    @cached_property
    def texts(self) -> list[str]:
        """Stories that the base has not read."""
        return stories(self.settings, "children_valid", self.settings["texts"] * 1000)[: self.settings["texts"]]

    def facts(self, seed: int, changed: bool = False) -> list[Stated]:
        """New people's facts, or other values of facts that the base knows; drawn by the seed."""
        count = self.settings["people"]
        if changed:
            return world.changed(self.known[: 6 * count], VALIDATION + 1 + seed)
        return world.people(count, VALIDATION + 1 + seed, [*self.known, *self.plain])

    def rate(self, arm: Arm) -> float:
        """A tuner's learning rate: the most facts about other people that are said as taught, with seed 0."""
        facts = world.people(self.settings["people"], VALIDATION, [*self.known, *self.plain])
        asked = [one for one in questions(facts) if one.kind == MEMORISED]

        def trial(rate: float) -> float:
            return float(np.mean(self._right(self._taught(arm, facts, rate, 0), asked)[MEMORISED]))

        return self.results.choose(arm.rates, self.settings["rates"][arm.rates], trial, "validation memorised")

    def run(self, name: str, arm: Arm, rate: float, seed: int) -> None:
        """Teach this arm the seed's facts and keep what it says to every question."""
        facts = self.facts(seed, arm.changed)
        self.keep(name, seed, self._taught(arm, facts, rate, seed), facts)

    def keep(self, name: str, seed: int, pair: Pair, facts: Sequence[Stated]) -> None:
        """Outcomes by kind of question, and under names of their own where kinds of one arm are compared."""
        asked = questions(facts, seed)
        right = self._right(pair, asked)
        compared = right[COMPARISON]  # as many with every seed
        right[COMPARISON] = [compared[i] for i in evenly(len(compared), self.settings["comparisons"])]
        outcomes: dict[str, Any] = {kind: right[kind] for kind in KINDS}
        outcomes[OTHERWISE] = [one for kind in (REPHRASED, *DERIVED) for one in right[kind]]
        outcomes[MADE_UP] = [not one for one in right[UNKNOWN]]
        if right[OLD]:
            outcomes[OLD] = right[OLD]
        outcomes[GENERAL] = self._general(pair)
        for kind in (MEMORISED, REPHRASED, PREFIXED):
            self.results.add(f"{name}: {kind}", seed, {FACTS: right[kind]})
        self.results.add(name, seed, outcomes)  # last: what it lacks is run again
        shares = {kind: round(float(np.mean(values)), 3) for kind, values in outcomes.items() if len(values)}
        log.info("%s, seed %d: %s", name, seed, shares)

    def bare(self) -> Pair:
        """The base as a pair without a delta."""
        return Pair(Base.load(self.base, device="cpu"))

    def _taught(self, arm: Arm, facts: Sequence[Stated], rate: float, seed: int) -> Pair:
        folder = self.results.folder / "task"
        folder.mkdir(exist_ok=True)
        rows = training_rows(facts, arm.paraphrases)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        for split in ("train", "validation"):
            (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        steps = arm.epochs * -(-len(facts) // self.settings["batch"])  # with paraphrases as many steps, fewer epochs
        return tune({
            "base": str(self.base), "data": {"source": str(folder), "text": "prompt", "label": "completion"},
            "tuner": arm.tuner, "objective": "lm", "seed": seed,
            "training": {"lr": rate, "max_steps": steps, "eval_every": steps, "batch_size": self.settings["batch"],
                         "warmup": 0.1, "keep": 1},
        })  # fmt: skip

    def _right(self, pair: Pair, asked: Sequence[Question]) -> dict[str, list[bool]]:
        """Kind → whether each of its questions is answered rightly; and whether the training questions have the old
        answer, of facts that had one."""
        said = written(pair, [one.prompt for one in asked], new_tokens=self.settings["answer"])
        found: dict[str, list[bool]] = {OLD: []}
        for one, text in zip(asked, said, strict=True):
            found.setdefault(one.kind, []).append(is_right(text, one))
            if one.kind == MEMORISED and one.before is not None:
                found[OLD].append(says(text, one.before))
        return found

    def _general(self, pair: Pair) -> np.ndarray:
        """[texts] how much lower the loss a token is than the base's."""
        task = general_task(self.texts)
        with pair.off():
            before, counts = token_losses(Reader(pair, task), task.split("test"))
        after, _ = token_losses(Reader(pair, task), task.split("test"))
        return (before - after) / np.maximum(counts, 1)
