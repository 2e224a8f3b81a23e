"""Second experiment: far OOD, where a plain likelihood follows length (the paradox of Nalisnick et al.).

The CLINC150 variants of the first experiment against six kinds of text of all lengths; and 20 Newsgroups, headers
removed, whose messages are long, against three sets of short sentences. Cut: 300 texts a side; of 20 Newsgroups 400
training messages, 3 passes, the first 64 tokens of a message.
"""

from __future__ import annotations

import logging
from typing import Any

from pairtune.reproductions.frame import Experiment, Part, Results
from pairtune.reproductions.likelihood import sets
from pairtune.reproductions.likelihood.bench import Bench
from pairtune.reproductions.likelihood.near import ARMS, SHOWN, clinc_bench, scores
from pairtune.reproductions.likelihood.placement import BEST_LENGTH, keep, missing, short

log = logging.getLogger("pairtune")
CLINC = tuple(
    f"CLINC150 / {kind}"
    for kind in ("SMS", "film sentences", "news titles", "news texts", "Shakespeare lines", "1-3 words")
)
NEWS = tuple(f"20 Newsgroups / {kind}" for kind in ("film sentences", "news titles", "requests"))


def run(results: Results, settings: dict[str, Any], near: Results) -> None:
    """Fill in what is missing; the CLINC150 variants are the first experiment's."""
    first = near.notes["settings"]
    requests = clinc_bench(near, first)
    groups = Bench("20 Newsgroups", results, sets.newsgroups(settings), settings)
    outside = {f"CLINC150 / {kind}": texts for kind, texts in sets.far(settings).items()}
    sentences = {f"20 Newsgroups / {kind}": texts for kind, texts in groups.ground.ood.items()}
    plan = (
        (requests, requests.ground.test[: settings["test"]], outside),
        (groups, groups.ground.test, sentences),
    )
    for seed in missing(results, ARMS, settings):
        by_split = {}
        for bench, inside, others in plan:
            pair = bench.variant(seed)
            found = scores(pair, bench.task, ARMS, [inside, *others.values()], settings["max_length"])
            by_split |= {split: (found[0], one) for split, one in zip(others, found[1:], strict=True)}
        keep(results, seed, by_split)
        for split in by_split:
            log.info("seed %d, %s: %s", seed, split, short(results, split, SHOWN))
    groups.drop()


def _published(name: str, method: str, baseline: str, splits: tuple[str, ...]) -> Part:
    return Part(name, method, baseline, splits, worth=0.01, counts=False)


FAR = Experiment(
    name="far",
    title="Far OOD: CLINC150 against texts of other kinds and lengths, and long messages against short sentences, "
    "where the sum of a plain likelihood follows length.",
    parts=(
        Part("the ratio repairs the likelihood of shorter texts", "LR", "LH", NEWS, worth=0.01),
        _published("the same per token", "NLR", "NLH", NEWS),
        _published("more than shortness", "LR", BEST_LENGTH, NEWS),
        _published("on strings of 1-3 words", "LR", "LH", ("CLINC150 / 1-3 words",)),
        _published("per token, on strings of 1-3 words", "NLR", "NLH", ("CLINC150 / 1-3 words",)),
        _published("on longer texts", "LR", "LH", CLINC[:-1]),
        _published("per token, on longer texts", "NLR", "NLH", CLINC[:-1]),
        _published("more than length", "LR", BEST_LENGTH, CLINC),
        _published("against neighbours", "LR", "kNN", CLINC),
    ),
    run=run,
    settings={"train": 400, "validation": 100, "test": 300, "epochs": 3, "batch_size": 16, "max_length": 64},
)
