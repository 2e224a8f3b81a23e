"""Third experiment: spam as OOD. SMS Spam, repeats removed; spam is the positive class throughout.

Three detectors: a variant tuned on ham, log p(base) − log p(ham); one tuned on spam, log p(spam) − log p(base); and the
two without a base, log p(spam) − log p(ham), which has seen both classes. Beside each its plain likelihood. Cut: 800
ham and about 400 spam messages to tune on, 3 passes over either, 400 ham and all spam (about 100) to test, the first
96 tokens of a message; one set of the paper's four.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from pairtune.reproductions.frame import Experiment, Part, Results
from pairtune.reproductions.likelihood import sets
from pairtune.reproductions.likelihood.bench import Bench
from pairtune.reproductions.likelihood.near import scores
from pairtune.reproductions.likelihood.placement import BEST_LENGTH, LENGTH, keep, missing, short

log = logging.getLogger("pairtune")
SPLIT = "SMS: ham / spam"
HAM = {
    "ham LR": "log-ratio:sum",
    "ham NLR": "log-ratio:token",
    "ham LH": "likelihood:sum",
    "ham NLH": "likelihood:token",
    "spam LR − ham LR": "variant-ratio:sum",
    "spam NLR − ham NLR": "variant-ratio:token",
    LENGTH: "length",
}
SPAM = {
    "spam LR": "log-ratio:sum",
    "spam NLR": "log-ratio:token",
    "spam LH": "likelihood:sum",
    "spam NLH": "likelihood:token",
}


def run(results: Results, settings: dict[str, Any], near: Results) -> None:
    """Fill in what is missing."""
    ham, spam = (
        Bench(name, results, ground, settings)
        for name, ground in zip(("ham", "spam"), sets.messages(settings), strict=True)
    )
    texts = [ham.ground.test, ham.ground.ood["spam"]]
    most = settings["max_length"]
    for seed in missing(results, (*HAM, *SPAM), settings):
        other = {"variant-ratio": {"other": str(spam.saved(seed))}}
        found = scores(ham.variant(seed), ham.task, HAM, texts, most, settings=other)
        turned = scores(spam.variant(seed), spam.task, SPAM, texts, most)
        # What is near to the spam variant is spam: the sign turns.
        both = tuple({**one, **_negative(two)} for one, two in zip(found, turned, strict=True))
        keep(results, seed, {SPLIT: (both[0], both[1])})
        log.info("seed %d, %s: %s", seed, SPLIT, short(results, SPLIT, (*HAM, *SPAM)))
    ham.drop()
    spam.drop()


def _negative(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {arm: -values for arm, values in found.items()}


def _part(method: str, baseline: str, counts: bool = False) -> Part:
    return Part(f"{method} against {baseline}", method, baseline, (SPLIT,), worth=0.01, counts=counts)


SPAM_EXPERIMENT = Experiment(
    name="spam",
    title="Spam as OOD: a variant tuned on ham, one tuned on spam, and the ratio of the two.",
    parts=(
        _part("ham LR", "ham LH", counts=True),
        _part("ham NLR", "ham NLH"),
        _part("spam LR", "spam LH"),
        _part("spam NLR", "spam NLH"),
        _part("spam LR − ham LR", "ham LR"),
        _part("spam LR − ham LR", "spam LR"),
        _part("ham LR", BEST_LENGTH),
        _part("ham LR", "ham NLH"),
    ),
    run=run,
    settings={"train": 800, "validation": 100, "test": 400, "epochs": 3, "batch_size": 16, "max_length": 96},
)
