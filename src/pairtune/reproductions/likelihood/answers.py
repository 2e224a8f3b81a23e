"""Fourth experiment: questions and answers. Which part of a conversation tells that a question is out of domain?

ID are GSM8K's questions; OOD are open questions, questions on a sentence, questions on a table, and statements to be
judged. The answer is the variant's own, written greedily. S_q scores the question, S_a the answer as a text of its own,
S_qa both in one row, S_a|q the answer's tokens in that row; beside each its plain likelihood. Cut: 300 training items
of at most 450 characters, 2 passes, 60 test items a set, answers of at most 24 tokens. The variant is tuned on
question and answer alike; the paper takes published instruction-tuned pairs of 7 B parameters. A base of this size
cannot solve such tasks: only style and domain are told apart here, and no part counts for the claim.
"""

from __future__ import annotations

import logging
from typing import Any

from pairtune.reproductions.frame import Experiment, Part, Results
from pairtune.reproductions.likelihood import sets
from pairtune.reproductions.likelihood.bench import Bench
from pairtune.reproductions.likelihood.near import scores
from pairtune.reproductions.likelihood.placement import BEST_LENGTH, LENGTH, keep, missing, short

log = logging.getLogger("pairtune")
PIECES = {"q": "question", "a": "answer", "qa": "both", "a given q": "answer-given-question"}
METHODS = {"S": "log-ratio", "LH": "likelihood"}
ARMS = {
    f"{letter}_{piece}{', token' if form == 'token' else ''}": f"{method}:{part}:{form}"
    for letter, method in METHODS.items()
    for piece, part in PIECES.items()
    for form in ("sum", "token")
} | {LENGTH: "length"}
SPLITS = tuple(
    f"GSM8K / {kind}"
    for kind in ("open questions", "questions on a sentence", "questions on a table", "political statements")
)


def run(results: Results, settings: dict[str, Any], near: Results) -> None:
    """Fill in what is missing."""
    columns = {"text": "question", "label": "answer"}
    bench = Bench("arithmetic", results, sets.arithmetic(settings), settings, columns=columns)
    outside = bench.ground.ood
    for seed in missing(results, ARMS, settings):
        texts = [bench.ground.test, *outside.values()]
        found = scores(
            bench.variant(seed), bench.task, ARMS, texts, settings["max_length"], new_tokens=settings["new_tokens"]
        )
        keep(results, seed, {f"GSM8K / {kind}": (found[0], one) for kind, one in zip(outside, found[1:], strict=True)})
        for split in SPLITS:
            log.info("seed %d, %s: %s", seed, split, short(results, split, ("S_q", "S_a", "S_qa", "S_a given q")))
    bench.drop()


def _part(method: str, baseline: str) -> Part:
    return Part(f"{method} against {baseline}", method, baseline, SPLITS, worth=0.01, counts=False)


ANSWERS = Experiment(
    name="answers",
    title="Questions with the variant's own answers: the ratio of the question, the answer, both, and the answer given "
    "the question.",
    parts=(
        *(_part(f"S_{piece}{form}", f"LH_{piece}{form}") for piece in PIECES for form in ("", ", token")),
        _part("S_a", "S_q"),
        _part("S_a given q", "S_q"),
        _part("S_qa", "S_q"),
        _part("S_a given q", "S_a"),
        _part("S_q", BEST_LENGTH),
    ),
    run=run,
    settings={
        "train": 300,
        "validation": 60,
        "test": 60,
        "epochs": 2,
        "batch_size": 16,
        "max_length": 160,
    },
)
