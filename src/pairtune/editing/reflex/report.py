"""What steering by disagreement found and is worth: plain numbers, and how they are shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from pairtune.pair.paired import Difference, compare

if TYPE_CHECKING:
    from pairtune.editing.reflex.anchor import Choice
    from pairtune.editing.reflex.extract import Probed


@dataclass(frozen=True)
class Scores:
    """One arm on one split.

    Attributes:
        accuracy, macro_f1: of the likeliest verdict. gold: mean P(v_gold | c).
        gain: of P(v_gold | c) over the variant's, row by row; None for the variant itself.
    """

    accuracy: float
    macro_f1: float
    gold: float
    gain: Difference | None

    @classmethod
    def of(cls, probabilities: np.ndarray, targets: np.ndarray, plain: np.ndarray | None) -> Scores:
        """From [N, V] probabilities, the verdicts' numbers [N], and the unsteered variant's probabilities."""
        from sklearn import metrics

        at, said = np.arange(len(targets)), probabilities.argmax(1)
        score: Any = metrics.f1_score
        f1 = score(targets, said, average="macro", labels=np.unique(targets), zero_division=0)
        gain = None if plain is None else compare(plain[at, targets], probabilities[at, targets])
        return cls(float((said == targets).mean()), float(f1), float(probabilities[at, targets].mean()), gain)


@dataclass(frozen=True)
class Arm:
    """A way of answering.

    Attributes:
        choice: direction, block and strength, chosen on validation; None for base and variant, which are asked as they
            are, without examples.
        scores: by split. perplexity: on general text, all positions steered; None for an encoder-decoder.
    """

    choice: Choice | None
    scores: dict[str, Scores]
    perplexity: float | None


@dataclass(frozen=True)
class SteerReport:
    """The whole of it. `print` shows sentences and tables, `to_dict()` is its JSON.

    Attributes:
        quadrants: rows of training by quadrant. rows: of each split that was read.
        majority: share of the most frequent verdict, by split.
        probed: how IV and KV were found. missing: which of them is not there, and why.
        candidates: every candidate with its gain on validation, by direction. arms: by name.
        chosen: the REFLEX vector with the largest gain; None where none raises the right verdict's probability.
        general: where the text for the perplexity is from. out: the folder with the vectors, where there is one.
    """

    pair: str
    labels: list[str]
    quadrants: dict[str, int]
    shots: int
    rows: dict[str, int]
    majority: dict[str, float]
    probed: dict[str, Probed]
    missing: dict[str, str]
    candidates: dict[str, list[Choice]]
    arms: dict[str, Arm]
    chosen: str | None
    general: str
    out: str | None

    def to_dict(self) -> dict[str, Any]:
        """The numbers under their names."""
        return {"schema": "pairtune.steer/1", "pairtune": version("pairtune"), **asdict(self)}

    def __rich__(self) -> Any:
        from pairtune.editing.reflex.shown import draw

        return draw(self)

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=100, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get()
