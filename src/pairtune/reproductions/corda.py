"""Directions that a context uses: what is lost without the others, how fast tuning begins, and what is forgotten.

Paper: CorDA, arXiv 2406.05223.

Setting, cut to two cores: zoo:tiny-lm (5 M parameters, four blocks of width 256). K, the knowledge, is encyclopedic
text (WikiText-2: its validation part is the context, paragraphs of its test part are measured), T are instructions and
their answers.

A  Each matrix of the blocks loses an eighth, a quarter or half of its smallest components, ordered by the plain
   singular value decomposition, ASVD, and CorDA's with context K or T; the loss on K, with five draws of the context.
   Judged at a quarter.
B  Tuned on T with rank 8 and equal steps: LoRA, PiSSA, CorDA in both modes (ipm with T's training rows, kpm with K).
   Each arm's learning rate is the one out of three with the lowest validation loss with seed 0. Judged: ipm against
   LoRA and PiSSA on T's test answers after these few steps; kpm against LoRA on K. Steps to LoRA's last training loss
   (means of three logged ones), and the pairs of (T, K) of all learning rates, stand under "choices": kpm counts as
   dominated where a LoRA of some rate is better on both.

The data folder (`wikitext2`, `instructions_small`) is named by PAIRTUNE_DATA or by `--set data=FOLDER`.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import numpy as np

from pairtune.pair.base import Base
from pairtune.pair.pair import Pair
from pairtune.reproductions.frame import Experiment, Part, Reproduction, Results
from pairtune.reproductions.instructing import encyclopedia, gains, instructions, tuned, validation_loss, write
from pairtune.reproductions.oriented.truncation import context, oriented, plain, scaled, without_smallest

log = logging.getLogger("pairtune")
SHARES = {"eighth": 1 / 8, "quarter": 1 / 4, "half": 1 / 2}
PLAIN, ASVD, KNOWN, FOREIGN = "plain", "ASVD", "CorDA, context K", "CorDA, context T"
LORA, PISSA, IPM, KPM = "LoRA", "PiSSA", "CorDA ipm", "CorDA kpm"


def run(results: Results, settings: dict[str, Any]) -> None:
    """Experiment A, draw by draw."""
    write(results.folder / "tasks", settings)
    known, foreign = encyclopedia(results.folder / "tasks"), instructions(results.folder / "tasks")
    base = Base.load(settings["base"], device="cpu")
    for seed in range(settings["seeds"]):
        if not results.missing(FOREIGN, seed):
            continue
        moments = {
            name: context(base, task, settings["context"], settings["words"], seed)
            for name, task in ((KNOWN, known), (FOREIGN, foreign))
        }
        ways = {PLAIN: plain, ASVD: scaled(moments[KNOWN]), **{name: oriented(one) for name, one in moments.items()}}
        for name, way in ways.items():
            found = {}
            for split, share in SHARES.items():
                with without_smallest(base, way, share):
                    found[split] = gains(Pair(base), known, "test", settings["words"])
            results.add(name, seed, found)
            log.info("%s, draw %d: %s", name, seed, {split: round(-float(v.mean()), 3) for split, v in found.items()})
    results.note("loss on K, whole", round(-float(gains(Pair(base), known, "test", settings["words"]).mean()), 4))


def tuners(folder: Any, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The arms of experiment B."""
    adapter = {"name": "lora", "r": settings["rank"], "alpha": settings["rank"]}
    own = {"name": "corda", "r": settings["rank"], "rows": settings["context"], "length": settings["words"]}
    kept = {"cache": str(folder / "moments")}
    return {
        LORA: adapter,
        PISSA: adapter | {"init": "pissa"},
        IPM: own | kept,
        KPM: own | kept | {"mode": "kpm", "data": str(folder / "tasks" / "encyclopedia")},
    }


def tune_all(results: Results, settings: dict[str, Any], _first: Results) -> None:
    """Experiment B, arm by arm and seed by seed."""
    write(results.folder / "tasks", settings)
    folder = results.folder / "tasks"
    for arm, tuner in tuners(results.folder, settings).items():
        trial = partial(_trial, results, settings, arm, tuner)
        rate = results.choose(arm, settings["rates"], trial, "validation loss")
        for seed in range(settings["seeds"]):
            if results.missing(arm, seed):
                pair = tuned(folder, settings, tuner, rate, seed)
                results.add(arm, seed, _measured(results, settings, pair))
                _note_losses(results, arm, seed, pair)
    _note_speed(results)


def _trial(results: Results, settings: dict[str, Any], arm: str, tuner: dict[str, Any], rate: float) -> float:
    pair = tuned(results.folder / "tasks", settings, tuner, rate, 0)
    found = {split: round(-float(v.mean()), 4) for split, v in _measured(results, settings, pair).items()}
    results.note(f"losses at rate {rate:g}, {arm}", found)
    return validation_loss(pair)


def _measured(results: Results, settings: dict[str, Any], pair: Pair) -> dict[str, np.ndarray]:
    tasks = {"T": instructions(results.folder / "tasks"), "K": encyclopedia(results.folder / "tasks")}
    return {name: gains(pair, task, "test", settings["words"]) for name, task in tasks.items()}


def _note_losses(results: Results, arm: str, seed: int, pair: Pair) -> None:
    losses = dict(results.notes.get("training losses", {}))
    losses[arm] = {**losses.get(arm, {}), str(seed): pair.top.record["training"]["curve"]}
    results.note("training losses", losses)


def _note_speed(results: Results) -> None:
    """When an arm's training loss is first at LoRA's last, as a share of the steps; and what no LoRA dominates."""
    losses = results.notes["training losses"]
    smooth = {arm: np.mean(list(runs.values()), axis=0) for arm, runs in losses.items()}
    smooth = {
        arm: np.convolve(values, np.ones(3) / 3, "valid") if len(values) > 3 else values
        for arm, values in smooth.items()
    }
    aim = smooth[LORA][-1]
    first = {arm: np.flatnonzero(values <= aim) for arm, values in smooth.items()}
    shares = {arm: round(float((at[0] + 1) / len(smooth[arm])), 3) if len(at) else None for arm, at in first.items()}
    results.note("share of the steps to LoRA's last training loss", shares)
    points = {name.rpartition(", ")[2]: [] for name in results.notes if name.startswith("losses at rate")}
    for name, value in results.notes.items():
        if name.startswith("losses at rate"):
            points[name.rpartition(", ")[2]].append((value["T"], value["K"]))
    kept = [p for p in points.get(KPM, []) if not any(t <= p[0] and k <= p[1] for t, k in points.get(LORA, []))]
    results.note("points of kpm that no LoRA dominates", f"{len(kept)} of {len(points.get(KPM, []))}")


def _lost(name: str, method: str, baseline: str, split: str = "quarter", counts: bool = True) -> Part:
    return Part(name, method, baseline, (split,), worth=0.01, counts=counts)


REPRODUCTION = Reproduction(
    slug="corda",
    paper="CorDA: Context-Oriented Decomposition Adaptation of Large Language Models (arXiv 2406.05223)",
    claim="Ordered by a context's inputs, the smallest singular directions of the weights are those that the context "
    "misses least; started from the largest ones, tuning is faster than LoRA and PiSSA, and from the smallest ones it "
    "forgets less of the context than LoRA.",
    module="tuners/corda",
    verb="tune --tuner corda",
    parts=(
        _lost("against scaled inputs", KNOWN, ASVD),
        _lost("scaled inputs against plain", ASVD, PLAIN),
        _lost("the right context", KNOWN, FOREIGN),
        *(_lost(f"against scaled inputs, {s}", KNOWN, ASVD, s, counts=False) for s in ("eighth", "half")),
        *(_lost(f"the right context, {s}", KNOWN, FOREIGN, s, counts=False) for s in ("eighth", "half")),
    ),
    run=run,
    settings={
        "data": None,
        "base": "zoo:tiny-lm",
        "seeds": 5,
        "context": 128,
        "words": 96,
        "train": 1600,
        "held": 100,
        "test": 120,
        "rank": 8,
        "steps": 80,
        "batch": 8,
        "rates": [5e-4, 2e-3, 8e-3],
    },
    more=(
        Experiment(
            "tuning",
            "rank 8 on instructions, 80 steps",
            (
                Part("ipm learns faster than LoRA", IPM, LORA, ("T",), worth=0.005),
                Part("ipm learns faster than PiSSA", IPM, PISSA, ("T",), worth=0.005),
                Part("kpm forgets less than LoRA", KPM, LORA, ("K",), worth=0.005),
                Part("kpm learns as LoRA does", KPM, LORA, ("T",), counts=False),
            ),
            tune_all,
            {},
        ),
    ),
)
