"""What scrubbing found, how sure that is, and what it cost: plain numbers and the sentences that they amount to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from pairtune.editing.scrub.identify import GAP, LayerShare
from pairtune.editing.scrub.offtopic import Causal, Drift, Overlap

ALIKE = 3.0  # from where on agreement, in multiples of chance, counts as evidence


@dataclass(frozen=True)
class SideReport:
    """One side of the first delta.

    Attributes:
        k: how many directions. values, energy: the largest singular values and their shares of the energy.
        gap: s_k / s_{k+1}; None where there is no further one. agreement: of blocks' leading directions, mean |cos|.
        halves: mean |cos| of the directions found on either half of the rows; chance: the same for random ones.
        causal, overlap: of the first direction.
        layers, kinds: by block and by kind of layer.
    """

    k: int
    values: list[float]
    energy: list[float]
    gap: float | None
    agreement: float
    halves: float
    chance: float
    causal: Causal
    overlap: Overlap
    layers: list[LayerShare]
    kinds: list[LayerShare]

    @property
    def evidence(self) -> dict[str, bool]:
        """What speaks for a direction that all rows share, and is not one of the base's own trivial ones."""
        return {
            f"the spectrum has a gap (above {GAP:g})": self.gap is None or self.gap > GAP,
            f"both halves of the rows show it (above {ALIKE:g} times chance)": self.halves > ALIKE * self.chance,
            "added to the base it does what the first delta does (above all random directions)": self.causal.holds,
            "it is neither the mean activation nor a few massive channels": not self.overlap.trivial,
        }


@dataclass(frozen=True)
class Residual:
    """What is left in the second delta.

    Attributes:
        held: share of the second delta's energy along the directions found, by side; 0 where it was held.
        again: |cos| of the directions that are found in the second delta with those of the first, by side.
        first, second: drift of the first and the second delta on texts from outside.
    """

    held: dict[str, float]
    again: dict[str, float]
    first: Drift
    second: Drift


@dataclass(frozen=True)
class Cost:
    """Steps of each run, and the metrics on validation of the first and the second delta."""

    steps: dict[str, int]
    first: dict[str, float]
    second: dict[str, float]


@dataclass(frozen=True)
class ScrubReport:
    """The whole of it. `print` shows sentences and tables, `to_dict()` is its JSON.

    Attributes:
        out, where, layers: the pair and how it was held. texts: how many texts from outside were read, from `source`.
    """

    out: str
    where: str
    layers: str
    source: str
    texts: int
    sides: dict[str, SideReport]
    residual: Residual
    cost: Cost

    @property
    def held_sides(self) -> list[str]:
        """The sides whose directions were used."""
        return {"both": ["write", "read"], "read": ["read"]}.get(self.where, ["write"])

    @property
    def sure(self) -> str:
        """How much speaks for what was found, in words."""
        facts = [fact for side in self.held_sides for fact in self.sides[side].evidence.values()]
        if all(facts):
            return "everything that was checked speaks for it"
        word = "much" if sum(facts) >= 0.75 * len(facts) else "some" if sum(facts) >= 0.5 * len(facts) else "little"
        return f"{word} speaks for it: {sum(facts)} of {len(facts)} checks"

    def to_dict(self) -> dict[str, Any]:
        """The numbers under their names, and what was concluded."""
        found = asdict(self)
        for name, side in self.sides.items():
            found["sides"][name]["evidence"] = side.evidence
        return {"schema": "pairtune.scrub/1", "pairtune": version("pairtune"), **found, "sure": self.sure}

    def __rich__(self) -> Any:
        from pairtune.editing.scrub.shown import draw

        return draw(self)

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=100, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get()
