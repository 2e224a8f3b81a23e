"""Sixth experiment: how long the base was pretrained.

A language model of 2 layers and width 128 with the zoo's tokenizer, trained from random weights on stories,
encyclopedia and instructions, taken at 3, 10, 30 and 100 % of 1 M tokens (one run at a constant rate) and tuned each
time on CLINC150 like the base of the first experiment, but on 1,000 texts, with 400 test texts a side. The note's pilot
expects that the ratio gains and the plain likelihood hardly changes. Published, not counted: so small a model for so
short a time says little about large ones.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from pairtune.reproductions.frame import Experiment, Part, Results
from pairtune.reproductions.likelihood import pretrained, sets
from pairtune.reproductions.likelihood.bench import Bench
from pairtune.reproductions.likelihood.near import CLINC, scores
from pairtune.reproductions.likelihood.placement import keep, missing, short

log = logging.getLogger("pairtune")
ARMS = {"LR": "log-ratio:sum", "NLR": "log-ratio:token", "LH": "likelihood:sum", "NLH": "likelihood:token"}
SHARES = (3, 10, 30, 100)
SHAPE = ("--layers", "2", "--width", "128", "--inner", "344")


def run(results: Results, settings: dict[str, Any], near: Results) -> None:
    """Fill in what is missing."""
    ground = sets.clinc(settings)
    for share, base in _bases(results, settings).items():
        bench = Bench(f"clinc {share} %", results, ground, settings, base=str(base))
        names = {f"{arm}, {share} %": detector for arm, detector in ARMS.items()}
        for seed in missing(results, names, settings):
            texts = [ground.test, ground.ood["oos"]]
            inside, outside = scores(bench.variant(seed), bench.task, names, texts, settings["max_length"])
            keep(results, seed, {CLINC: (inside, outside)})
            log.info("seed %d: %s", seed, short(results, CLINC, tuple(names)))
        bench.drop()
    rows = {arm: [round(_mean(results, f"{arm}, {share} %"), 4) for share in SHARES] for arm in ARMS}
    results.note("AUROC by share of pretraining", {"share in %": list(SHARES), **rows})


def _bases(results: Results, settings: dict[str, Any]) -> dict[int, Path]:
    """Share of the pretraining in % → base."""
    place, tokens = results.folder / "bases", settings["broad_tokens"]
    if not (place / "corpus").is_dir():
        pretrained.write_corpus(place / "corpus", sets.broad(settings, 5 * tokens))
    return {
        share: pretrained.pretrain(
            place / "corpus", place / "run", place / f"share-{share}", tokens * share // 100, SHAPE
        )
        for share in SHARES
    }


def _mean(results: Results, arm: str) -> float:
    return float(np.mean([run[CLINC] for run in results.outcomes[arm].values()]))


def _part(name: str, arm: str) -> Part:
    return Part(name, f"{arm}, 100 %", f"{arm}, 3 %", (CLINC,), worth=0.01, counts=False)


TRAINING_LENGTH = Experiment(
    name="training-length",
    title="A smaller base at 3, 10, 30 and 100 % of its pretraining, each tuned on CLINC150.",
    parts=(
        _part("longer pretraining helps the ratio", "LR"),
        _part("longer pretraining helps the ratio per token", "NLR"),
        _part("longer pretraining helps the likelihood", "LH"),
        _part("longer pretraining helps the likelihood per token", "NLH"),
        Part("the ratio against the likelihood at 100 %", "LR, 100 %", "LH, 100 %", (CLINC,), 0.01, False),
    ),
    run=run,
    settings={"train": 1000, "test": 400},
)
