"""A language delta and a task delta, tuned apart and added: lottery-ticket sparse ones against dense and others.

Paper: "Composable Sparse Fine-Tuning for Cross-Lingual Transfer", arXiv 2110.07560.

Setting, cut to two cores: a made language B, English news with half of the words renamed (`composable/world.py`), an
encoder of 0.2 M parameters that was pretrained here on English and on a little B, topics of news (AG News, four
classes) with labels in English alone. A language delta is tuned on text of B by hidden tokens, a task delta on labelled
English text; base + both answers the test rows in B, and the same rows in English. What was cut: real languages and
treebanks, the base's size, and the delta of the source language, which the base here knows best of all. Adapters are
LoRA: a pair of low-rank deltas added, not MAD-X's stack of bottlenecks with invertible ones at the embeddings.

The sizes of this world were set after pilots of the arm "dense" with seed 0, whose figures on the test rows were seen:
at the first sizes nothing was learnt (the task in English was at 48 %). No other arm had been run on it.

Everything that a seed decides differs from seed to seed: both deltas' data order, hidden tokens, dropout, the head, and
the random mask; the base and the texts stay. All arms take the same steps for a delta (`composable/arms.py`). The claim
is judged at a density of 10 %, chosen before any run as the decade's figure nearest to the paper's 8 and 4 %; the other
densities are published. The rule of the paper's note stands under "choices".

The data folder (`ag_news_small`) is named by PAIRTUNE_DATA or by `--set data=FOLDER`.
"""

from __future__ import annotations

import logging
import shutil
from typing import Any

import numpy as np

from pairtune.analysis.interference import interference
from pairtune.reproductions.composable import base, world
from pairtune.reproductions.composable.arms import (
    ARMS,
    BITFIT,
    DENSE,
    LANGUAGE,
    LORA,
    MAIN,
    RANDOM,
    TASK,
    TICKETS,
    Bench,
    ticket,
)
from pairtune.reproductions.frame import Part, Reproduction, Results

log = logging.getLogger("pairtune")
CHOSEN = ticket(MAIN)
TASK_ONLY, TICKET_ONLY = "task alone, dense", f"task alone, {CHOSEN}"
ALONE = {TASK_ONLY: DENSE, TICKET_ONLY: CHOSEN}


def run(results: Results, settings: dict[str, Any]) -> None:
    """Fill in what is missing, seed by seed."""
    tasks = results.folder / "tasks"
    world.build(tasks, settings)
    bench = Bench(results, tasks, base.pretrain(results.folder / "base", tasks, settings), settings)
    for seed in range(settings["seeds"]):
        for arm in ARMS:
            if results.missing(arm, seed):
                _keep(results, arm, seed, bench.answers([bench.delta(arm, skill, seed) for skill in (TASK, LANGUAGE)]))
        for arm, source in ALONE.items():
            if results.missing(arm, seed):
                _keep(results, arm, seed, bench.answers([bench.delta(source, TASK, seed)]))
    for arm in (DENSE, *TICKETS, RANDOM):
        _note_interference(results, bench, arm)
    shutil.rmtree(results.folder / "first", ignore_errors=True)
    results.note("note's rule", notes_rule(results))


def _keep(results: Results, arm: str, seed: int, right: dict[str, np.ndarray]) -> None:
    results.add(arm, seed, right)
    log.info("%s, seed %d: %s", arm, seed, ", ".join(f"{name} {found.mean():.3f}" for name, found in right.items()))


def _note_interference(results: Results, bench: Bench, arm: str) -> None:
    """How the two deltas of seed 0 meet, where they are added."""
    name = f"interference, {arm}"
    if name not in results.notes:
        task, language = bench.delta(arm, TASK, 0), bench.delta(arm, LANGUAGE, 0)
        found = interference(task, language)
        cosine = None if found.cosine is None else round(found.cosine, 4)
        results.note(name, {"shared": round(found.overlap, 4), "opposed": round(found.opposed, 4), "cosine": cosine})


def notes_rule(results: Results) -> dict[str, Any]:
    """What the note expects and what would falsify the claim, read off the mean outcomes."""

    def mean(arm: str, split: str = "B") -> float:
        return float(results.table(arm, (split,)).mean())

    densities = {arm: round(mean(arm), 4) for arm in (*TICKETS, DENSE)}
    best = max(densities, key=lambda arm: densities[arm])
    return {
        "ticket above random above zero-shot": mean(CHOSEN) > mean(RANDOM) > mean(TASK_ONLY),
        "ticket above dense": mean(CHOSEN) > mean(DENSE),
        "ticket not below the adapters": mean(CHOSEN) >= mean(LORA),
        "best density lies inside": best not in (TICKETS[0], DENSE),
        "in A within a point of dense": abs(mean(CHOSEN, "A") - mean(TASK_ONLY, "A")) <= 0.01,
        "falsified: dense not below any density": all(mean(DENSE) >= mean(arm) for arm in TICKETS),
        "B by density": densities,
    }


def _part(name: str, method: str, baseline: str, split: str = "B", counts: bool = True) -> Part:
    return Part(name, method, baseline, (split,), worth=0.01, counts=counts)


REPRODUCTION = Reproduction(
    slug="composable-sft",
    paper="Composable Sparse Fine-Tuning for Cross-Lingual Transfer (arXiv 2110.07560)",
    claim="Of a language delta and a task delta that are tuned apart and added, lottery-ticket sparse ones transfer "
    "better to the language than the task delta alone, than dense ones, than sparse ones with a random mask, than "
    "biases, and than adapters.",
    module="tuners/sparse, objectives/mlm",
    verb="tune lt-sft",
    parts=(
        _part("the language helps", CHOSEN, TASK_ONLY),
        _part("sparse beats dense", CHOSEN, DENSE),
        _part("chosen beats random", CHOSEN, RANDOM),
        _part("against biases", CHOSEN, BITFIT),
        _part("against adapters", CHOSEN, LORA),
        # What the note expects beside it.
        _part("the language helps the ticket", CHOSEN, TICKET_ONLY, counts=False),
        _part("random helps", RANDOM, TASK_ONLY, counts=False),
        _part("dense helps", DENSE, TASK_ONLY, counts=False),
        *(
            _part(f"sparse beats dense at {arm.split()[-1]}", arm, DENSE, counts=False)
            for arm in TICKETS
            if arm != CHOSEN
        ),
        _part("as good in the task's own language", CHOSEN, TASK_ONLY, "A", counts=False),
    ),
    run=run,
    settings={
        "data": None,
        "seeds": 5,
        "vocabulary": 1000,
        "renamed": 0.5,
        "words": 24,
        "text_a": 3000,
        "text_b": 600,
        "text_language": 2000,
        "labelled": 1000,
        "held": 300,
        "test": 800,
        "width": 64,
        "layers": 2,
        "pretraining": 1500,
        "language steps": 800,
        "topics steps": 300,
    },
    reading="One of five counted parts holds, one is undecided and three do not hold. Most of the claim needs a "
    "language delta that brings the task into the language, and here it does so little: adding it to the "
    "ticket brings 2.7 points in B and costs as much in A, and tuning the task densely and alone is better in"
    " B (.45) than any sum but LoRA's (.49) and that of the tickets at 30 % (.46). What was visible of the "
    "choice of a mask in an earlier run with lower learning rates (a chosen mask 4 points above a random one,"
    " undecided) is gone with the better ones (.393 and .395 in B). What stays of sparsity: every ticket but "
    "the smallest loses less in A than a dense sum does (.60 to .62, .57), and the best density lies inside, "
    "as the note expects, at 30 % rather than at 5 to 10. Likely reasons, not shown: a base of 0.2 M "
    "parameters and two layers has little room, so that a tenth of its entries is few and densities shift "
    "upwards; the base has seen B already, and a language delta lowers the loss of hidden words by a few per "
    "cent alone; the delta of the source language was cut. The grids of learning rates were moved up by one "
    "place after that run, since it had chosen their largest values on validation; its test figures had been "
    "seen then (the language helps -.033, sparse beats dense -.008, against biases +.065, against adapters "
    "-.064). Rates at the upper end are still chosen by the tickets and the random mask for the task, the "
    "random mask for the language, and BitFit for the language, where the last step up gained less than a "
    "point or .04 nats. The random mask was the same for language and task in a first run of all, which put "
    "it .029 higher in B; it has been drawn for each since.",
)
