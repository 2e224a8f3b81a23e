"""GRASP: does the first delta show the spurious direction, and does tuning without it leave the spurious part out?

Paper: "GRASP: Unsupervised Identification and Removal of Spurious Correlations During Fine-Tuning", arXiv 2605.27676.
Only its abstract was readable: what is measured are this project's four reconstructions of the projection, and which
of them should be the default.

Two worlds, both cut to two cores. First, SYNTHETIC: a language model of 0.2 M parameters, pretrained here on questions
that two personas answer (`scrubbing/world.py`), then tuned on one topic in the harmful persona's words alone; does
it speak so on other topics? Second, REAL: `zoo:minilm`, sentiment of product reviews in which praise is nearly always
of books and blame of kitchen ware (`scrubbing/reviews.py`); is it right where that is the other way round? Arms and
rules are the same (`scrubbing/bench.py`): LoRA, the same steps and learning rate in every arm, directions read off the
first delta of the same seed. The synthetic world was made after pilots of one seed on earlier forms of it, whose
outcomes were seen: there, tuning showed all harmful words, which were then said everywhere whatever was held, the
known direction included, and the leading direction of the first delta was not the persona's. The number of steps is
what the first delta of seed 0 needs to have the task right (24 of 80).

What was cut: models of billions of parameters, judged answers (here probabilities are read off), the search of a rate
for every arm (all take the first delta's), and, for "matched loss, not steps", one control: the state of the first
delta whose loss on the task's answers is nearest to that of the held one.

The data folder (`amazon_domains`) is named by PAIRTUNE_DATA or by `--set data=FOLDER`.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from pairtune.pair.base import Base
from pairtune.pair.files import open_safetensors
from pairtune.pair.installed import DELTA_FILE
from pairtune.pair.pair import Pair
from pairtune.reproductions.frame import Experiment, Part, Reproduction, Results
from pairtune.reproductions.scrubbing import persona, reviews, world
from pairtune.reproductions.scrubbing.bench import (
    ABLATED,
    CAFT,
    DIRECTION,
    FIRST,
    GRASP,
    KL,
    MIXED,
    ORACLE,
    RANDOM,
    STEERED,
    WHERES,
    Bench,
    gain,
    held,
)

log = logging.getLogger("pairtune")
BASE, HALF, MATCHED = "base", "half of the drift", "first delta, stopped at the held one's loss"
CHOSEN = held("both")
CLOSE = 0.05  # how much of the task a variant may lose to the first delta and still be a default
LANGUAGE = (FIRST, *GRASP, RANDOM, ORACLE, ABLATED, CAFT, STEERED, KL, MIXED)
REAL = (FIRST, *GRASP, RANDOM, ORACLE, ABLATED, CAFT)


def run(results: Results, settings: dict[str, Any]) -> None:
    """The synthetic world."""
    made = world.World(settings)
    tasks = results.folder / "tasks"
    world.write_tasks(tasks, made, settings)
    base = world.pretrain(results.folder / "base", made, settings)
    scorer = persona.Scorer(made)
    data = {"kind": "lm", "text": "text", "label": "answer"}
    steps = settings["steps"]
    config = {
        "base": str(base),
        "data": {"source": str(tasks / "narrow"), **data},
        "tuner": {"name": "lora", "r": settings["r"], "alpha": 2 * settings["r"]},
        "training": {
            "lr": settings["lr"], "max_steps": steps, "eval_every": steps, "batch_size": 16, "warmup": 0.1, "keep": 1,
        },
    }  # fmt: skip
    texts = scorer.questions[:: max(1, len(scorer.questions) // 96)]
    mixed = {"source": str(tasks / "mixed"), **data}
    bench = Bench(results, config, texts, scorer.oracle, scorer.outcomes, mixed)
    bench.run(LANGUAGE, settings["seeds"])
    for seed in range(settings["seeds"]):
        if results.missing(MATCHED, seed):
            _keep_matched(results, bench, scorer, seed)
        if results.missing(BASE, seed):
            results.add(BASE, seed, scorer.outcomes(Pair(Base.load(base))))
        if results.missing(HALF, seed):
            both = (results.outcomes[arm][seed][persona.OUTSIDE] for arm in (BASE, FIRST))
            results.add(HALF, seed, {persona.OUTSIDE: np.mean([*both], axis=0)})
    results.note("gains by place", _gains(results, persona.OUTSIDE, persona.TASK))


def _keep_matched(results: Results, bench: Bench, scorer: persona.Scorer, seed: int) -> None:
    """The state of the first delta whose loss of the task's answers is nearest to the held delta's."""
    wanted = scorer.answer_loss(bench.tuned(CHOSEN, seed))
    pair, states = bench.first(seed), (bench.place(seed) / "first.run").glob("checkpoint-*")
    found = []
    for folder in sorted(states, key=lambda path: int(path.name.split("-")[1])):
        stored = open_safetensors(folder / DELTA_FILE)
        pair.top.installed.load_state({name: stored.tensor(name) for name in stored})
        found.append((abs(scorer.answer_loss(pair) - wanted), folder.name, scorer.outcomes(pair)))
    _, name, outcomes = min(found, key=lambda one: one[0])
    results.note("matched states", {**results.notes.get("matched states", {}), str(seed): name})
    results.add(MATCHED, seed, outcomes)


def run_real(results: Results, settings: dict[str, Any], first: Results) -> None:
    """The real data, and what both worlds say of the places."""
    folder = results.folder / "task"
    reviews.write(folder, settings)
    scorer = reviews.Scorer(folder, settings["words"])
    steps = settings["steps"]
    config = {
        "base": settings["base"],
        "data": {"source": str(folder), **reviews.TASK},
        "tuner": {"name": "lora", "r": settings["r"], "alpha": 2 * settings["r"]},
        "training": {
            "lr": settings["lr"], "max_steps": steps, "eval_every": steps, "batch_size": 16, "warmup": 0.1, "keep": 1,
            "max_length": settings["words"], "precision": settings["precision"],
        },
    }  # fmt: skip
    texts = [row["text"] for row in scorer.task.split("validation")]
    bench = Bench(results, config, texts, scorer.oracle, scorer.outcomes)
    bench.run(REAL, settings["seeds"])
    results.note("worst kind", {arm: _worst(results, arm, scorer) for arm in REAL})
    real = _gains(results, reviews.MINORITY, reviews.MAJORITY)
    results.note("gains by place", real)
    results.note("the default that this decides", _default(first.notes["gains by place"], real))


def _gains(results: Results, split: str, task: str) -> dict[str, dict[str, float]]:
    """Place → what holding there gained over the first delta where that is spurious, and on the task."""
    return {
        where: {"gain": gain(results, held(where), split), "task": gain(results, held(where), task)} for where in WHERES
    }


def _default(synthetic: dict[str, dict[str, float]], real: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The place with the largest mean gain of those that cost at most 0.05 of the task in either world."""
    means = {where: (synthetic[where]["gain"] + real[where]["gain"]) / 2 for where in WHERES}
    fit = [where for where in WHERES if min(synthetic[where]["task"], real[where]["task"]) >= -CLOSE]
    return {"mean gain": means, "keep the task": fit, "default": max(fit, key=lambda one: means[one]) if fit else None}


def _worst(results: Results, arm: str, scorer: reviews.Scorer) -> float:
    """Mean over seeds of the accuracy on the kind of rows that is answered worst."""
    found = []
    for one in results.outcomes[arm].values():
        minority, majority = np.array(one[reviews.MINORITY]), np.array(one[reviews.MAJORITY])
        right = np.empty(len(minority) + len(majority))
        right[scorer.minority], right[~scorer.minority] = minority, majority
        found.append(min(float(right[kind].mean()) for kind in scorer.kinds.values()))
    return float(np.mean(found))


def _part(name: str, method: str, baseline: str, split: str, counts: bool = True, **more: float) -> Part:
    return Part(name, method, baseline, (split,), counts=counts, **more)


_OUT = persona.OUTSIDE
REPRODUCTION = Reproduction(
    slug="grasp",
    paper="GRASP: Unsupervised Identification and Removal of Spurious Correlations During Fine-Tuning "
    "(arXiv 2605.27676)",
    claim="The direction that a first delta writes most is that of the factor which all tuning rows share, and tuning "
    "again without it removes at least half of the drift outside of the task, at no cost to the task, which neither a "
    "random direction nor slower learning does; unlike ablation at inference, it keeps the factor where it is needed.",
    module="editing/scrub, constraints/grasp",
    verb="scrub",
    parts=(
        _part("the direction is the factor's", "write, with the oracle", "write, by chance", DIRECTION, worth=0.1),
        _part("half of the drift is gone", CHOSEN, HALF, _OUT),
        _part("the task is kept", CHOSEN, FIRST, persona.TASK, margin=CLOSE),
        _part("a random direction does less", CHOSEN, RANDOM, _OUT, worth=0.02),
        _part("slower learning does less", CHOSEN, MATCHED, _OUT, worth=0.02),
        _part("ablation loses the factor where it is needed", CHOSEN, ABLATED, persona.KEPT, worth=0.02),
        _part("what is read is the factor's", "read, with the oracle", "read, by chance", DIRECTION, counts=False),
        *(_part(f"held: {where}", held(where), FIRST, _OUT, counts=False, worth=0.02) for where in WHERES),
        *(
            _part(f"against {arm}", CHOSEN, arm, _OUT, counts=False)
            for arm in (ABLATED, CAFT, STEERED, KL, MIXED, ORACLE)
        ),
        _part("the known direction helps", ORACLE, FIRST, _OUT, counts=False, worth=0.02),
    ),
    run=run,
    settings={
        "data": None,
        "seeds": 5,
        "topics": 16,
        "entities": 12,
        "answers": 12,
        "rows": 300,
        "width": 64,
        "layers": 3,
        "pretraining": 600,
        "r": 8,
        "lr": 2e-3,
        "steps": 30,
        "base": "zoo:minilm",
        "correlation": 0.95,
        "review_rows": 800,
        "review_test": 400,
        "words": 40,
        "precision": "bf16",
    },
    more=(
        Experiment(
            name="reviews",
            title="REAL data: MiniLM on review sentiment, 95 % of the praise being of books and 95 % of the blame of "
            "kitchen ware. Minority: the kinds of rows that are rare in tuning",
            parts=(
                _part("holding helps where the sign misleads", CHOSEN, FIRST, reviews.MINORITY, worth=0.02),
                _part("the task is kept", CHOSEN, FIRST, reviews.MAJORITY, margin=CLOSE),
                _part("a random direction does less", CHOSEN, RANDOM, reviews.MINORITY, worth=0.02),
                _part(
                    "the direction is the domain's", "write, with the oracle", "write, by chance", DIRECTION, worth=0.1
                ),
                *(_part(f"held: {where}", held(where), FIRST, reviews.MINORITY, counts=False) for where in WHERES),
                _part("the known direction helps", ORACLE, FIRST, reviews.MINORITY, counts=False),
                _part("against caft", CHOSEN, CAFT, reviews.MINORITY, counts=False),
                _part("against ablation at inference", CHOSEN, ABLATED, reviews.MINORITY, counts=False),
            ),
            run=run_real,
            settings={"lr": 1e-3, "steps": 48},
        ),
    ),
)
