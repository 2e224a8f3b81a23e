"""The vectors: what tuning gained, what it lost, and the baselines that know labels only.

    Inference Vector IV    present: the variant's activations on Q2, absent: the base's        (gained)
    Knowledge Vector KV    present: the base's activations on Q4, absent: the variant's        (lost)
    CAA, ITI               present: the variant's behind the right verdict, absent: behind a wrong one

IV and KV are read at the verdict slot, under the same ids, the model's identity taken off (`contrast.py`). CAA
(arXiv 2312.06681, difference of means) and ITI (arXiv 2306.03341, logistic regression) are a single direction of truth
out of labels, read at the verdict's last token; ITI is applied to the residual stream here rather than to chosen heads.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pairtune.editing.reflex.contrast import FEWEST, Contrast, Control, Fitted, fit
from pairtune.errors import InputError
from pairtune.generation.logistic import Logistic
from pairtune.generation.mean_difference import MeanDifference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pairtune.data.split import Split
    from pairtune.editing.reflex.quadrants import Quadrants
    from pairtune.editing.reflex.reading import Reading
    from pairtune.generation import Direction

log = logging.getLogger("pairtune")
MOST = 500  # rows of a contrast; beyond that, evenly spread ones
IV, KV, CAA, ITI, RANDOM = "iv", "kv", "caa", "iti", "random"
REFLEX = (IV, KV)


@dataclass(frozen=True)
class Probed:
    """How one of the two vectors was found.

    Attributes:
        pairs: rows. The others are by block.
        accuracy: of the probe with the models' offset taken off; raw: with the activations as they are.
        identity: of the models' own direction, on the same rows as they are.
        cosine: of the vector with that direction; raw_cosine: of the one fitted to the activations as they are.
    """

    pairs: int
    accuracy: dict[int, float]
    raw: dict[int, float]
    identity: dict[int, float]
    cosine: dict[int, float]
    raw_cosine: dict[int, float]


@dataclass(frozen=True)
class Extracted:
    """Directions by name, how REFLEX's were found, and why one of these is missing."""

    fitted: dict[str, Fitted]
    probed: dict[str, Probed]
    missing: dict[str, str] = field(default_factory=dict)


def extract(
    reading: Reading,
    split: Split,
    quadrants: Quadrants,
    method: Direction,
    seed: int,
    blocks: Sequence[int] | None = None,
) -> Extracted:
    """Read the vectors off activations on the training rows, behind some blocks or behind all.

    Raises `InputError` where neither Q2 nor Q4, or where Q1 and Q3 together, have 20 rows, and where base and variant
    differ behind none of the blocks.
    """
    counts = quadrants.counts
    said = ", ".join(f"{name} {count}" for name, count in counts.items())
    if len(quadrants.agreed) < FEWEST:
        raise InputError(
            f"base and variant agree on too few rows to tell what merely parts the two models ({said}; {FEWEST} of Q1 "
            "and Q3 are needed); give more training rows, or ask the base with more or fewer --shots"
        )
    if max(counts["Q2"], counts["Q4"]) < FEWEST:
        raise InputError(
            f"base and variant disagree on too few rows for a vector ({said}; {FEWEST} of Q2 or Q4 are needed); give "
            "more training rows"
        )
    rows = reading.rows(split)
    control = Control.of(*_both(reading, rows, quadrants.agreed), method, blocks)
    if not control.fitted.directions:
        where = "any block" if blocks is None else f"block {', '.join(map(str, blocks))}"
        raise InputError(
            f"base and variant do not differ behind {where} on these rows: what the delta changes comes later; take "
            "later blocks"
        )
    fitted: dict[str, Fitted] = {}
    probed: dict[str, Probed] = {}
    missing = {}
    for name, numbers in ((IV, quadrants.gained), (KV, quadrants.lost)):
        if len(numbers) < FEWEST:
            missing[name] = f"{len(numbers)} pairs, {FEWEST} are needed"
            log.warning("no %s: %s", name.upper(), missing[name])
            continue
        variant, base = _both(reading, rows, numbers)
        plain, mended = (_oriented(name, one, base) for one in (variant, variant.double() - control.offset))
        raw, fitted[name] = fit(plain, method, blocks), fit(mended, method, blocks)
        probed[name] = Probed(
            len(variant), fitted[name].accuracy, raw.accuracy, control.accuracy(variant, base),
            control.cosines(fitted[name]), control.cosines(raw),
        )  # fmt: skip
    answers = _answers(reading, split, rows, seed)
    for name, how in ((CAA, MeanDifference()), (ITI, Logistic())):
        fitted[name] = replace(fit(answers, how, blocks), name=name)
    fitted[RANDOM] = random_like(fitted[next(iter(probed))], seed)
    return Extracted(fitted, probed, missing)


def random_like(other: Fitted, seed: int) -> Fitted:
    """A random direction of the same length behind every block, in the other's unit."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {block: torch.randn(len(one), generator=generator).double() for block, one in other.directions.items()}
    return Fitted(RANDOM, {block: one / one.norm() for block, one in drawn.items()}, other.sigma, {})


def _oriented(name: str, variant: torch.Tensor, base: torch.Tensor) -> Contrast:
    return Contrast(name, variant, base) if name == IV else Contrast(name, base, variant)


def _both(reading: Reading, rows: list[list[int]], numbers: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, L, d] activations of variant and base at the verdict slot of some rows."""
    chosen = [rows[i] for i in _spread(numbers)]
    variant = reading.activations(chosen)
    with reading.pair.off():
        return variant, reading.activations(chosen)


def _answers(reading: Reading, split: Split, rows: list[list[int]], seed: int) -> Contrast:
    """The variant behind the right and behind a wrong verdict, at its last token."""
    draw = np.random.default_rng(seed)
    numbers, targets, count = _spread(np.arange(len(rows))), reading.targets(split), len(reading.verdicts)
    wrong = [(targets[i] + draw.integers(1, count)) % count for i in numbers]
    sides = [
        reading.activations([rows[i] for i in numbers], [reading.verdicts[v] for v in said])
        for said in ([targets[i] for i in numbers], wrong)
    ]
    return Contrast("answers", *sides)


def _spread(numbers: Sequence[int] | np.ndarray) -> list[int]:
    """At most 500 of some numbers, evenly spread."""
    most = min(MOST, len(numbers))
    return [int(numbers[i * len(numbers) // most]) for i in range(most)]
