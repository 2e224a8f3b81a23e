"""A made world of facts, claims about them, and verdicts with reasons: what a small language model reads and checks.

    e12 r3 x7 .                                  a fact, told
    claim e12 r3 x9 false because e12 r3 x7 .    a claim, checked

Pretraining tells all facts, and checks claims about a part of them; tuning checks claims about others, some of them
with the wrong verdict and a reason that fits it: a wrong "true" tells the claim as a fact, a wrong "false" makes up
one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.pair.complete import is_complete
from pairtune.reproductions.scrubbing.world import word_tokenizer
from pairtune.reproductions.sources import Rows, write_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERDICTS = ("false", "true")
Fact = tuple[int, int]


class World:
    """The facts.

    settings: `entities`, `relations` and `values` that there are; `checked`: the share that pretraining checks.
    """

    def __init__(self, settings: Mapping[str, Any]):
        self._entities, self._relations, self._values = (settings[n] for n in ("entities", "relations", "values"))
        draw = random.Random(0)
        every = [(e, r) for e in range(self._entities) for r in range(self._relations)]
        self.facts = {fact: draw.randrange(self._values) for fact in every}
        draw.shuffle(every)
        count = round(settings["checked"] * len(every))
        self._every, self.checked, self.left = every, every[:count], every[count:]

    def told(self, fact: Fact, value: int | None = None) -> str:
        """A fact, with its value or another."""
        return f"e{fact[0]} r{fact[1]} x{self.facts[fact] if value is None else value}"

    def claim(self, fact: Fact, value: int) -> str:
        """A claim, up to its verdict."""
        return f"claim {self.told(fact, value)}"

    def answer(self, fact: Fact, value: int, verdict: bool, draw: random.Random) -> str:
        """A verdict and a reason that fits it, also where it is wrong."""
        said = value if verdict else self.facts[fact]
        while not verdict and said == value:
            said = draw.randrange(self._values)
        return f"{VERDICTS[verdict]} because {self.told(fact, said)} ."

    def claimed(self, fact: Fact, draw: random.Random) -> int:
        """The value that a claim names: the right one half of the time."""
        right = self.facts[fact]
        return right if draw.random() < 0.5 else (right + draw.randrange(1, self._values)) % self._values

    def document(self, draw: random.Random) -> str:
        """A fact and three checked claims, in a drawn order."""
        parts = [f"{self.told(draw.choice(self._every))} ."]
        for _ in range(3):
            fact = draw.choice(self.checked)
            value = self.claimed(fact, draw)
            parts.append(f"{self.claim(fact, value)} {self.answer(fact, value, value == self.facts[fact], draw)}")
        draw.shuffle(parts)
        return " ".join(parts)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """One token a word."""
        words = ["claim", "because", ".", *VERDICTS, *(f"e{i}" for i in range(self._entities))]
        return word_tokenizer(
            [*words, *(f"r{i}" for i in range(self._relations)), *(f"x{i}" for i in range(self._values))]
        )

    def rows(self, facts: list[Fact], draw: random.Random, wrong: float = 0.0) -> Rows:
        """A right and a wrong claim about each fact, as rows; the given share of their verdicts is turned round."""
        found: Rows = []
        for fact in facts:
            other = (self.facts[fact] + draw.randrange(1, self._values)) % self._values
            for value in (self.facts[fact], other):
                verdict = (value == self.facts[fact]) != (draw.random() < wrong)
                found.append(
                    {
                        "text": f"<s> {self.claim(fact, value)}",
                        "answer": self.answer(fact, value, verdict, draw),
                        "verdict": VERDICTS[verdict],
                    }
                )
        draw.shuffle(found)
        return found


def write_tasks(folder: Path, world: World, settings: Mapping[str, Any], seed: int) -> dict[str, Path]:
    """A seed's tasks: `tuned` (with wrong verdicts among the training rows) and `shuffled` (its training verdicts in
    another order); validation and test, of other facts, are right in both."""
    draw = random.Random(f"claims {seed}")
    facts = draw.sample(world.left, len(world.left))
    sizes = (settings["train"], settings["validation"], settings["test"])
    splits: dict[str, Rows] = {}
    for name, size, wrong in zip(("train", "validation", "test"), sizes, (settings["wrong"], 0.0, 0.0), strict=True):
        splits[name] = world.rows(facts[: size // 2], draw, wrong)
        facts = facts[size // 2 :]
    verdicts = [row["verdict"] for row in splits["train"]]
    draw.shuffle(verdicts)
    other = [{**row, "verdict": verdict} for row, verdict in zip(splits["train"], verdicts, strict=True)]
    found = {"tuned": folder / "tuned", "shuffled": folder / "shuffled"}
    for name, train in (("tuned", splits["train"]), ("shuffled", other)):
        if not is_complete(found[name]):
            write_task(found[name], splits | {"train": train})
    return found
