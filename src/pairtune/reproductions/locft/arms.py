"""The arms of the reproduction of LocFT-BF: how each edits, how its learning rate is chosen, what is kept of it.

All arms edit the same 300 facts into the same base and are measured alike. A seed draws the new answers, the order of
the edits in their file (which is depth-first's order) and the order of training.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairtune.analysis.edits import EditReport, answers, cut, measure_edits
from pairtune.data.facts import Facts
from pairtune.editing.edit import edit
from pairtune.editing.locft.search import search_location
from pairtune.errors import PairtuneError
from pairtune.pair.base import Base
from pairtune.pair.pair import Pair
from pairtune.reproductions.frame import Results
from pairtune.reproductions.locft import world

log = logging.getLogger("pairtune")
LOCFT, BF, DF, FULL, LORA = "LocFT-BF", "BF, one edit a step", "DF", "BF, all weights", "BF, LoRA"
EQUAL, BF_EQUAL, WORST = "LocFT-BF, DF's updates", "BF, one edit a step, DF's updates", "LocFT-BF, worst place"
METHODS = {LOCFT: "locft-bf", BF: "bf", DF: "df", FULL: "full", LORA: "lora"}
EDITS, REPHRASES, KEPT, GENERAL, THIRD = "edits", "rephrases", "kept", "general", "third"
MODULES = ("mlp.up_proj", "mlp.down_proj", "self_attn.o_proj")


@dataclass
class Bench:
    """The base, what it knows, and what is done with which fact.

    Attributes:
        edited, held: facts that are edited, in the runs that count and where something is chosen.
        stay: facts that are not edited; their answers should stay.
        texts: stories that the base has not read.
    """

    results: Results
    settings: dict[str, Any]
    base: Path
    edited: list[world.Known]
    held: list[world.Known]
    stay: list[world.Known]
    texts: list[str]

    @classmethod
    def of(cls, results: Results, settings: dict[str, Any]) -> Bench:
        """Teach the base, see what it knows, and part the facts that it knows in both ways of asking."""
        facts = world.facts(settings["people"])
        base = world.teach(results.folder / "base", facts, settings)
        said = answers(
            Pair(Base.load(base, device="cpu")), [text for fact in facts for text in (fact.prompt, fact.rephrase)]
        )
        right = {text for fact in facts for text in (fact.prompt, fact.rephrase) if cut(said[text]) == fact.answer}
        known = [fact for fact in facts if {fact.prompt, fact.rephrase} <= right]
        results.note("facts that the base knows", {"asked": len(right) / (2 * len(facts)), "in both ways": len(known)})
        needed = settings["edits"] + settings["held"] + 1
        if len(known) < needed:
            raise PairtuneError(f"the base knows {len(known)} facts in both ways, {needed} are needed; raise tokens")
        held, rest = known[: settings["held"]], known[settings["held"] :]
        edited, stay = rest[: settings["edits"]], rest[settings["edits"] :]
        return cls(results, settings, base, edited, held, stay, world.general(settings, settings["texts"]))

    def facts(self, known: list[world.Known], seed: int) -> Facts:
        """New answers for some facts, each with its rephrase and a fact that stays."""
        generator = random.Random(f"{seed} {len(known)}")
        order = generator.sample(known, len(known))
        rows = [
            {
                "prompt": fact.prompt,
                "target": generator.choice(fact.others),
                "rephrase": fact.rephrase,
                "locality": self.stay[i % len(self.stay)].prompt,
            }
            for i, fact in enumerate(order)
        ]
        return Facts.read(rows)

    def places(self) -> tuple[str, str]:
        """The best and the worst place by the score of the validation edits; every place's is kept."""
        found = dict(self.results.notes.get("validation score by place", {}))
        facts, pair = self.facts(self.held, 0), self._base()
        every = [f"{i}:{module}" for i in range(len(pair.base.blocks)) for module in MODULES]
        how = {"method": "locft-bf", "batch_size": self._batch(facts), "lr": self.settings["sweep_rate"]}
        how["epochs"] = self.settings["epochs"]
        for place in every:
            if place not in found:
                found |= search_location(pair, facts, [place], lambda one: self._measured(one, facts).score, how)
                self.results.note("validation score by place", found)
        return max(every, key=lambda place: found[place]), min(every, key=lambda place: found[place])

    def rate(self, arm: str, place: str) -> float:
        """The arm's learning rate, by the share of validation edits that hold with seed 0; of equal ones the lowest."""
        facts = self.facts(self.held, 0)

        def trial(rate: float) -> float:
            report = self._measured(self._edited(arm, facts, 0, place, rate), facts)
            return report.reliability.share

        return self.results.choose(arm, self.settings["rates"][METHODS[arm]], trial, "validation reliability")

    def run(self, arm: str, seed: int, place: str, rate: float, updates: int | None = None, like: str = "") -> None:
        """Make this arm's edits with this seed and keep what they did.

        Args:
            updates: the most work that may be done.
            like: the arm whose method is run, where it is another's.
        """
        facts = self.facts(self.edited, seed)
        pair = self._edited(like or arm, facts, seed, place, rate, updates)
        made, report = pair.top.record["training"], self._measured(pair, facts)
        work = {name: made[name] for name in ("updates", "steps", "skipped", "ended")}
        self._note("work", arm, seed, work)
        self._note("losses of the edits", arm, seed, report.losses)
        self._note("general loss", arm, seed, [report.general.before, report.general.after])
        self._keep(arm, seed, report)  # last: what it lacks is run again
        rise = report.general.change.mean
        log.info("%s, seed %d: %s, %d updates, general %+.3f", arm, seed, _shares(report), made["updates"], rise)

    def copy(self, arm: str, seed: int, of: str) -> None:
        """Where an arm would repeat another bit for bit, its outcomes are that one's."""
        for what in ("work", "losses of the edits", "general loss"):
            self._note(what, arm, seed, self.results.notes[what][of][str(seed)])
        self.results.add(arm, seed, self.results.outcomes[of][seed])

    def updates(self, arm: str, seed: int) -> int:
        """Gradients of single edits that an arm took."""
        return int(self.results.notes["work"][arm][str(seed)]["updates"])

    def _edited(self, arm: str, facts: Facts, seed: int, place: str, rate: float, updates: int | None = None) -> Pair:
        method = METHODS[arm]
        more: dict[str, Any] = {} if arm == FULL else {"at": place}
        more |= {"batch_size": self._batch(facts)} if arm in (LOCFT, FULL, LORA) else {}
        more |= {} if updates is None else {"updates": updates}
        return edit(facts, self._base(), method=method, lr=rate, seed=seed, epochs=self.settings["epochs"], **more)

    def _batch(self, facts: Facts) -> int:
        """Edits of a step; of fewer edits fewer, so that an epoch has as many steps."""
        return max(1, round(self.settings["batch"] * len(facts) / self.settings["edits"]))

    def _base(self) -> Pair:
        """The base, loaded anew: the one before carries its edits."""
        return Pair(Base.load(self.base, device="cpu"))

    def _measured(self, pair: Pair, facts: Facts) -> EditReport:
        return measure_edits(pair, facts, general=self.texts)

    def _keep(self, arm: str, seed: int, report: EditReport) -> None:
        right = [one.prompt.right for one in report.edits]
        third = len(right) // 3
        before, after = np.array(report.general.texts).T
        if arm in (DF, LOCFT):
            self.results.add(f"{arm}, first third", seed, {THIRD: right[:third]})
            self.results.add(f"{arm}, last third", seed, {THIRD: right[-third:]})
        self.results.add(
            arm,
            seed,
            {
                EDITS: right,
                REPHRASES: [said.right for one in report.edits for said in one.rephrases],
                KEPT: [said.right for one in report.edits for said in one.locality],
                GENERAL: before - after,
            },
        )

    def _note(self, what: str, arm: str, seed: int, value: Any) -> None:
        every = self.results.notes.get(what, {})
        self.results.note(what, every | {arm: {**every.get(arm, {}), str(seed): value}})


def _shares(report: EditReport) -> str:
    shares = {EDITS: report.reliability, REPHRASES: report.generalisation, KEPT: report.locality}
    return ", ".join(f"{name} {one.share:.3f}" for name, one in shares.items() if one is not None)
