"""A threshold on a detector's score, at a chosen rate of ID inputs flagged, kept in the pair's card.

Of n held-out ID scores the k-th smallest is the threshold, k = ⌈(n + 1)(1 − rate)⌉, and an input is out where its score
is above it. The share of ID inputs that will then be flagged has, over draws of the n, the distribution

    Beta(n + 1 − k, k)        mean (n + 1 − k) / (n + 1) ≤ rate

exactly where scores are continuous and inputs independent draws of one distribution; ties only lower the share. Its
2.5 % and 97.5 % quantiles are the interval that is reported (the order-statistic counterpart of Clopper and Pearson's).
It says nothing of ID inputs that come to look different later, nor of what share of OOD inputs is caught.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic

from pairtune.errors import FormatError, InputError, MissingView
from pairtune.method import problems_of
from pairtune.ood.scoring import Scorer, inputs_of
from pairtune.pair.files import open_safetensors
from pairtune.pair.recard import rewrite_card
from pairtune.training.proofs import digest

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair

STATE_FILE = "detector.safetensors"


class Threshold(pydantic.BaseModel):
    """What the card remembers of a calibrated detector.

    Attributes:
        detector: its name, with its form; settings: its settings beside those in the name.
        value: inputs with a higher score are out.
        rate: the share of ID inputs that was asked for; expected, low, high: what it will be (mean, 95 % interval).
        count: held-out ID inputs; data: their task and its fingerprint.
        delta: digest of the deltas that it was made for.
        fitted: digest of each tensor in `detector.safetensors`; empty where nothing was learnt.
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    detector: str
    settings: dict[str, Any] = {}
    value: float
    rate: float
    expected: float
    low: float
    high: float
    count: int
    data: dict[str, Any] = {}
    delta: str
    fitted: dict[str, str] = {}
    max_length: int
    new_tokens: int


def threshold_at(scores: np.ndarray, rate: float) -> tuple[float, float, float, float]:
    """(threshold, expected rate, low, high) from held-out ID scores [n].

    Raises `InputError` for a rate outside of 0 … 1, scores that are not finite, or too few of them for so small a rate.
    """
    from scipy.stats import beta

    if not 0 < rate < 1:
        raise InputError(f"the rate of ID inputs to be flagged is a number between 0 and 1, found {rate:g}")
    scores = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise InputError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are NaN or infinite")
    count = len(scores)
    k = math.ceil((count + 1) * (1 - rate) - 1e-9)
    if k > count:
        needed = math.ceil(1 / rate - 1e-9) - 1
        raise InputError(f"a rate of {rate:g} needs at least {needed} held-out ID inputs, found {count}")
    low, high = beta.ppf([0.025, 0.975], count + 1 - k, k)
    return float(np.sort(scores)[k - 1]), (count + 1 - k) / (count + 1), float(low), float(high)


def calibrate(scorer: Scorer, task: Task, rate: float) -> Threshold:
    """Fit the scorer's one detector on the task's train split and set its threshold on the validation split."""
    ((name, detector),) = scorer.detectors.items()
    if "validation" not in task.splits:
        raise InputError(
            f"{task.name}: there is no validation split to calibrate on (splits: {', '.join(task.splits)})"
        )
    scorer.fit(task)
    scores = scorer.table(inputs_of(scorer.pair, task, task.split("validation")))[name]
    value, expected, low, high = threshold_at(scores, rate)
    return Threshold(
        detector=name,
        settings=detector.settings.model_dump(mode="json"),
        value=value,
        rate=rate,
        expected=expected,
        low=low,
        high=high,
        count=len(scores),
        data={"name": task.name, "split": "validation", "fingerprint": task.fingerprint},
        delta=delta_digest(scorer.pair),
        fitted=digest(detector.fitted),
        max_length=scorer.batcher.max_length,
        new_tokens=scorer.batcher.new_tokens,
    )


def store(folder: str | Path, scorer: Scorer, threshold: Threshold) -> None:
    """Put a threshold, and what its detector has learnt, into the pair's folder; it takes the place of an older one.

    Raises `InputError` for a pair that has no card.
    """
    pair = scorer.pair
    if pair.card is None:
        raise InputError(f"{folder}: this pair has no pair.json to keep a threshold in; save it with Pair.save(folder)")
    card = pair.card.model_copy(update={"threshold": threshold.model_dump(mode="json")})
    rewrite_card(folder, card, {STATE_FILE: scorer.detectors[threshold.detector].fitted or None})
    pair.card = card


def stored(pair: Pair) -> Threshold | None:
    """The threshold in the pair's card, None where there is none.

    Raises `FormatError` for a damaged one, `InputError` for one that was made for other deltas.
    """
    record = pair.card.threshold if pair.card else None
    if record is None:
        return None
    try:
        found = Threshold.model_validate(record)
    except pydantic.ValidationError as error:
        raise FormatError("the card's threshold is damaged: " + "; ".join(problems_of(error))) from None
    if found.delta != delta_digest(pair):
        raise InputError(
            "the card's threshold was made for another delta; calibrate again: pairtune score PAIR --fit TASK"
        )
    return found


def required(pair: Pair) -> Threshold:
    """The threshold in the pair's card. Raises `InputError` where there is none."""
    found = stored(pair)
    if found is None:
        raise InputError("this pair has no threshold yet; make one: pairtune score PAIR --fit TASK --rate 0.05")
    return found


def calibrated(pair: Pair, folder: str | Path, threshold: Threshold) -> Scorer:
    """A scorer of the detector that the threshold belongs to, as it was fitted.

    Raises `FormatError` where what it has learnt is missing from the folder or was changed.
    """
    stem = threshold.detector.partition(":")[0]
    scorer = Scorer(
        pair,
        [threshold.detector],
        threshold.max_length,
        settings={stem: threshold.settings},
        new_tokens=threshold.new_tokens,
    )
    load_fitted(scorer, folder, threshold)
    return scorer


def load_fitted(scorer: Scorer, folder: str | Path, threshold: Threshold) -> None:
    """Give a scorer's calibrated detector what it has learnt."""
    if not threshold.fitted:
        return
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise FormatError(f"{path}: what {threshold.detector} has learnt is missing; calibrate again with --fit")
    file = open_safetensors(path)
    tensors = {name: file.tensor(name).clone() for name in file}
    if digest(tensors) != threshold.fitted:
        raise FormatError(f"{path}: not what the card recorded; it was changed or damaged: calibrate again with --fit")
    scorer.detectors[threshold.detector].fitted = tensors


def delta_digest(pair: Pair) -> str:
    """One hash of all tensors of the stack and of the base that it stands on."""
    import hashlib

    parts = [pair.base.fingerprint.weights]
    if not pair.layers:
        raise MissingView("this pair has no delta, so that nothing tells inputs apart")
    for layer in pair.layers:
        parts += [f"{name} {value}" for name, value in sorted(digest(layer.installed.state()).items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def check(scorer: Scorer, task: Task, threshold: Threshold) -> dict[str, tuple[float, float, float]]:
    """Split → share of its inputs that the threshold flags, with its 95 % interval (Clopper-Pearson).

    Of the test split, which calibration did not see, and of every OOD split that the task has.
    """
    from scipy.stats import binomtest

    found = {}
    for name, split in task.splits.items():
        if name == "test" or name.startswith("ood/"):
            scores = scorer.table(inputs_of(scorer.pair, task, split))[threshold.detector]
            flagged = int((scores > threshold.value).sum())
            interval = binomtest(flagged, len(scores)).proportion_ci(0.95)
            found[name] = (flagged / len(scores), float(interval.low), float(interval.high))
    return found
