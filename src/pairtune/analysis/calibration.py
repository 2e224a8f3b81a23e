"""Does confidence mean what it says? Reliability of base and variant, and the change of the calibration error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pairtune.analysis.metrics import calibration_error
from pairtune.analysis.report import Block, Cell, Lines, Note, Section, Series, Table
from pairtune.pair.paired import Difference

if TYPE_CHECKING:
    from pairtune.analysis.answers import Answers, Side

BINS, RESAMPLES = 15, 500
MEANINGS = {
    "confidence": "The probability that a model gives to the label it chooses.",
    "ECE": "Expected calibration error (Guo et al. 2017): the mean distance of confidence and accuracy over "
    f"{BINS} bins of confidence; 0 is perfect, and few rows make it look larger than it is.",
    "confidence − accuracy": "Above 0 the model is surer than it is right (over-confident), below 0 less sure.",
    "reliability": "Each point is a bin of confidence and how often the model is right in it; on the diagonal, "
    "confidence is honest.",
}


@dataclass(frozen=True)
class Reliability:
    """One model on one split.

    Attributes:
        ece, confidence, accuracy: over all rows.
        bins: (mean confidence, accuracy, rows) of each bin that has rows, by confidence.
    """

    ece: float
    confidence: float
    accuracy: float
    bins: list[tuple[float, float, int]]


@dataclass(frozen=True)
class Calibration:
    """split → model → reliability; split → variant → change of the ECE with its 95 % interval (paired bootstrap)."""

    models: dict[str, dict[str, Reliability]]
    changes: dict[str, dict[str, Difference]]
    missing: str | None = None
    rows: dict[str, int] = field(default_factory=dict)


def calibration(answers: Answers) -> Calibration:
    """Reliability on every split; missing where the task has no classes to be confident of."""
    kind = answers.task.kind
    if kind != "classification":
        return Calibration({}, {}, f"{kind} tasks have no single chosen label whose confidence could be checked")
    found = Calibration({}, {})
    for split, one in answers.splits.items():
        sides = {model: _confidence(side) for model, side in one.sides.items()}
        found.rows[split] = len(one.rows)
        found.models[split] = {model: reliability(*pair) for model, pair in sides.items()}
        if one.base is not None:
            found.changes[split] = {name: _change(sides[one.base], sides[name]) for name in answers.variants}
    return found


def reliability(confidence: np.ndarray, right: np.ndarray) -> Reliability:
    """From each row's confidence and whether it was right ([N] each)."""
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = [
        (float(confidence[which == b].mean()), float(right[which == b].mean()), int((which == b).sum()))
        for b in range(BINS)
        if (which == b).any()
    ]
    return Reliability(calibration_error(confidence, right, BINS), float(confidence.mean()), float(right.mean()), bins)


def _confidence(side: Side) -> tuple[np.ndarray, np.ndarray]:
    assert side.outputs is not None
    return np.exp(side.outputs.max(axis=1)), side.items["accuracy"]


def _change(before: tuple[np.ndarray, ...], after: tuple[np.ndarray, ...], seed: int = 0) -> Difference:
    generator = np.random.default_rng(seed)
    size = len(before[0])
    drawn = []
    for _ in range(RESAMPLES):
        rows = generator.integers(0, size, size)
        drawn.append(_ece(after, rows) - _ece(before, rows))
    low, high = np.quantile(drawn, [0.025, 0.975])
    whole = np.arange(size)
    return Difference(_ece(after, whole) - _ece(before, whole), float(low), float(high))


def _ece(side: tuple[np.ndarray, ...], rows: np.ndarray) -> float:
    return calibration_error(side[0][rows], side[1][rows], BINS)


# -- how it is shown -------------------------------------------------------------------------------------------------


def section(found: Calibration) -> Section:
    """The section as a sentence, a table, and a reliability diagram for each split."""
    title = "Calibration"
    if found.missing is not None:
        return Section("calibration", title, "Not measured.", [Note(f"Not here: {found.missing}.", missing=True)])
    if not found.models:
        return Section("calibration", title, "No split could be scored.", [])
    blocks: list[Block] = [_table(found)]
    for split, models in found.models.items():
        series = [Series(model, [b[0] for b in one.bins], [b[1] for b in one.bins]) for model, one in models.items()]
        said = "; ".join(
            f"{model}: confidence {one.confidence:.0%}, right {one.accuracy:.0%}" for model, one in models.items()
        )
        alt = f"Reliability on {split}. {said}. A line below the diagonal is over-confident."
        rows = [
            (model, f"{confidence:.1%}", f"{right:.1%}", f"{count:,}")
            for model, one in models.items()
            for confidence, right, count in one.bins
        ]
        numbers = Table(f"Reliability on {split}", ("model", "confidence", "right", "rows"), rows, (1, 2, 3))
        label = f"Reliability on {split} ({found.rows[split]:,} rows)"
        blocks.append(Lines(label, "confidence", "share that is right", series, alt, numbers, unit=True))
    return Section("calibration", title, _lead(found), blocks, MEANINGS)


def _lead(found: Calibration) -> str:
    split = "test" if "test" in found.models else next(iter(found.models))
    if split not in found.changes:
        return "The base has no confidence to compare with."
    base = next(model for model in found.models[split] if model not in found.changes[split])
    said = []
    for name, change in found.changes[split].items():
        before, after = found.models[split][base], found.models[split][name]
        gap = after.confidence - after.accuracy
        state = "over-confident" if gap > 0 else "under-confident"
        who = name if len(found.changes[split]) > 1 else "the variant"
        clear = "" if change.clear else ", which is no clear change"
        said.append(
            f"On {split}, {who}'s calibration error is {after.ece:.3f} against the base's {before.ece:.3f}{clear}; "
            f"it is {state} by {100 * abs(gap):.1f} points."
        )
    return " ".join(said)


def _table(found: Calibration) -> Table:
    rows = []
    for split, models in found.models.items():
        for model, one in models.items():
            change = found.changes.get(split, {}).get(model)
            cell: str | Cell = ""
            if change is not None:
                tone = change.tone(rising=False) or "quiet"
                cell = Cell(f"{change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})", tone=tone)
            gap = f"{100 * (one.confidence - one.accuracy):+.1f} pts"
            rows.append((split, model, f"{one.ece:.3f}", cell, f"{one.confidence:.1%}", gap))
    head = ("split", "model", "ECE", "change (95 %)", "confidence", "− accuracy")
    return Table("Calibration of each model", head, rows, numeric=(2, 3, 4, 5))
