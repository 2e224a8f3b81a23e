"""Fifth experiment, the control that could falsify the claim: the same variants against another base.

The CLINC150 variants of the first experiment, with log p(base) taken from a base of the same architecture and tokenizer
that knows nothing (random weights) or something else (trained from random weights on Shakespeare alone, for 300,000
tokens). If the base is what makes the ratio work, either must be worse.
"""

from __future__ import annotations

import logging
from typing import Any

from pairtune.pair.base import Base
from pairtune.pair.pair import Pair
from pairtune.reproductions.frame import Experiment, Part, Results
from pairtune.reproductions.likelihood import pretrained, sets
from pairtune.reproductions.likelihood.near import CLINC, clinc_bench, scores
from pairtune.reproductions.likelihood.placement import LENGTH, Scores, keep, missing, short

log = logging.getLogger("pairtune")
OWN = {"LR": "log-ratio:sum", "NLR": "log-ratio:token", "LH": "likelihood:sum", "NLH": "likelihood:token"}
OWN |= {LENGTH: "length"}
OTHER = {"LR": "likelihood:sum", "NLR": "likelihood:token"}
RANDOM, PLAYS = "random base", "Shakespeare base"


def run(results: Results, settings: dict[str, Any], near: Results) -> None:
    """Fill in what is missing; the variants are the first experiment's."""
    first = near.notes["settings"]
    bench = clinc_bench(near, first)
    texts = [bench.ground.test, bench.ground.ood["oos"]]
    seeds = missing(results, arms(), settings)
    surprise = {}
    if seeds:
        for name, folder in _bases(results, settings).items():
            pair = Pair(Base.load(str(folder)))
            surprise[name] = scores(pair, bench.task, OTHER, texts, first["max_length"])
    for seed in seeds:
        found = scores(bench.variant(seed), bench.task, OWN, texts, first["max_length"])
        inside, outside = (_with_other_bases(one, surprise, side) for side, one in enumerate(found))
        keep(results, seed, {CLINC: (inside, outside)})
        log.info("seed %d: %s", seed, short(results, CLINC, arms()))


def arms() -> tuple[str, ...]:
    """All arms."""
    return (*OWN, *(f"{arm}, {base}" for base in (RANDOM, PLAYS) for arm in OTHER))


def _bases(results: Results, settings: dict[str, Any]) -> dict[str, Any]:
    place = results.folder / "bases"
    if not (place / "corpus").is_dir():
        pretrained.write_corpus(place / "corpus", sets.shakespeare(settings))
    plays = pretrained.pretrain(place / "corpus", place / "run", place / "shakespeare", settings["play_tokens"])
    return {RANDOM: pretrained.random_base(settings["base"], place / "random"), PLAYS: plays}


def _with_other_bases(own: Scores, surprise: dict[str, Any], side: int) -> Scores:
    """log p(other base) − log p(variant) beside the variant's own scores, from both surprises −log p."""
    ratios = {
        f"{arm}, {base}": own[{"LR": "LH", "NLR": "NLH"}[arm]] - values
        for base, sides in surprise.items()
        for arm, values in sides[side].items()
    }
    return {**own, **ratios}


def _part(name: str, method: str, baseline: str, counts: bool = True) -> Part:
    return Part(name, method, baseline, (CLINC,), worth=0.01, counts=counts)


BASES = Experiment(
    name="bases",
    title="The control: the same CLINC150 variants, the ratio taken against a random base and one of another domain.",
    parts=(
        *(_part(f"the ratio needs its base: {base}", "LR", f"LR, {base}") for base in (RANDOM, PLAYS)),
        *(_part(f"per token: {base}", "NLR", f"NLR, {base}", counts=False) for base in (RANDOM, PLAYS)),
        *(
            _part(f"the likelihood against the ratio with a {base}", "LH", f"LR, {base}", False)
            for base in (RANDOM, PLAYS)
        ),
        _part("the likelihood per token against the ratio with a Shakespeare base", "NLH", f"NLR, {PLAYS}", False),
    ),
    run=run,
    settings={},
)
