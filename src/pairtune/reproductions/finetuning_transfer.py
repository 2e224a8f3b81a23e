"""A delta on another version of its base: what it recovers, when it does, and what it is worth as a start.

Paper: "Efficient Model Development through Fine-tuning Transfer", arXiv 2503.20110.

Setting, cut to two cores: a language model of 1.6 M parameters, pretrained here for half a million tokens. M1 to M5 are
states of one run, the last two after a change of texts and learning rate; M6 is an independent run. Each is tuned
with one recipe (all weights, the loss of the answer alone) to name the intent of a request (12 intents of CLINC150),
and what that adds to base i is added to base j with `pairtune rebase`: all 20 pairs of the run, and M6 in both roles. A
seed sets the random weights, the order of all texts, and the tuning; texts and requests stay. The recipe's learning
rate is the one out of three with the lowest validation loss on M3 with seed 0. Accuracies are on test rows, barriers on
validation rows along the line between FT(M_i) and FT(M_j), at alpha 0, 0.25, 0.5, 0.75 and 1.

"Recovers more than half" is judged on accuracies, as moved − (base + tuned) / 2, which is above 0 exactly where R is
above 0.5. Distance is judged on targets that have both: neighbours against bases three or more steps of the run away. A
start's worth is counted in steps to nine tenths of the gain that plain tuning ends with (M4 and M5, from the base
before each), and at the end of the run after a quarter of the steps: tuned at once, or from version to version, the
delta moved on each time (iterative recycling). The note's own directions stand under "choices"; by it the claim were
falsified if neighbours recovered no more than the independent run, or if the moved start were not ahead at any number
of steps.

The data folder (`clinc150`, `gutenberg_stories`, `wikitext2`, `instructions_small`) is named by PAIRTUNE_DATA or by
`--set data=FOLDER`.
"""

from __future__ import annotations

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pairtune.analysis.connectivity import line_across
from pairtune.analysis.path import along
from pairtune.analysis.sweep import barrier, on_line
from pairtune.merging.rebase.pair import rebase
from pairtune.pair.base import Base
from pairtune.pair.pair import Pair
from pairtune.reproductions.frame import Part, Reproduction, Results
from pairtune.reproductions.transfer.bases import RUN, bases
from pairtune.reproductions.transfer.measures import (
    CONTROL,
    DIRECT,
    FIRST_ON_LAST,
    PAIRS,
    RECYCLED,
    TEST,
    base,
    moved,
    sum_up,
    tuned,
)  # fmt: skip
from pairtune.reproductions.transfer.skill import Skill, drop

log = logging.getLogger("pairtune")
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
FRACTIONS = (0.5, 0.75, 1.25)  # of the delta of M4 on M5, published beside 1


def run(results: Results, settings: dict[str, Any]) -> None:
    """Fill in what is missing, seed by seed; what a seed made on the way is removed when all is known of it."""
    skill = Skill(results.folder / "task", settings)
    rate = results.choose("recipe", settings["rates"], partial(_trial, results, settings, skill), "validation loss")
    for seed in range(settings["seeds"]):
        if results.missing(RECYCLED, seed) or results.missing(FIRST_ON_LAST, seed):
            _one_seed(results, settings, skill, rate, seed)
            shutil.rmtree(results.folder / f"seed-{seed}")
    sum_up(results, settings["every"])


def _trial(results: Results, settings: dict[str, Any], skill: Skill, rate: float) -> float:
    place = results.folder / "seed-0" / f"trial-{rate:g}"
    pair = skill.tuned(bases(results.folder, 0, settings)[3], place, 0, rate)
    drop(place)
    return float(pair.top.record["training"]["metrics"]["validation loss"])


def _one_seed(results: Results, settings: dict[str, Any], skill: Skill, rate: float, seed: int) -> None:
    own = results.folder / f"seed-{seed}"
    versions = bases(results.folder, seed, settings)
    places = {i: own / f"tuned-{i}" for i in versions}
    for i, path in versions.items():
        _tune_base(results, settings, skill, rate, seed, i, path, places[i])
    for i, j in PAIRS + CONTROL:
        if results.missing(moved(i, j), seed):
            results.add(moved(i, j), seed, {TEST: skill.answers(rebase(places[i], versions[j]))["accuracy"]})
    _barriers(results, skill, seed, versions, places)
    _fractions(results, skill, seed, versions, places)
    for i, j in ((3, 4), (4, 5)):
        _begun(results, settings, skill, rate, seed, (i, j), versions[j], places[i])
    _recycle(results, settings, skill, rate, seed, versions)


def _tune_base(results, settings, skill: Skill, rate: float, seed: int, i: int, path: Path, place: Path) -> None:
    """Tune one base; the curves of M4 and M5 are what the moved starts are compared with."""
    watched = i in (4, 5)
    pair = skill.tuned(path, place, seed, rate, every=settings["every"] if watched else None)
    if watched and tuned(i) not in _kept(results, "curves", seed):
        _keep(results, "curves", seed, tuned(i), skill.curve(pair, place))
        drop(place, pair=False)
        pair = Pair.load(place)
    if results.missing(tuned(i), seed):
        with pair.off():
            results.add(base(i), seed, {TEST: skill.answers(pair)["accuracy"]})
        results.add(tuned(i), seed, {TEST: skill.answers(pair)["accuracy"]})
        log.info("seed %d, M%d: %s", seed, i, [_mean(results, arm(i), seed) for arm in (base, tuned)])


def _barriers(results: Results, skill: Skill, seed: int, versions: dict[int, Path], places: dict[int, Path]) -> None:
    """Barriers of the loss between all tuned models, and between two pairs of bases."""
    numbers = list(versions)
    wanted = {f"{i}-{j}": (places[i], places[j]) for i in numbers for j in numbers if i < j}
    wanted |= {f"bases {i}-{i + 1}": (versions[i], versions[i + 1]) for i in (4, 5)}
    wanted = {name: ends for name, ends in wanted.items() if name not in _kept(results, "barriers", seed)}
    parts = {TEST: (skill.task, skill.rows("validation"))}
    paths = dict.fromkeys(path for ends in wanted.values() for path in ends)
    pairs = {path: Pair(Base.load(path)) if path in versions.values() else Pair.load(path) for path in paths}
    said = {path: skill.answers(pair, "validation") for path, pair in pairs.items()}
    for name, (first, second) in wanted.items():
        line, reader = line_across(pairs[first], pairs[second]), pairs[second]
        known = {(TEST, 0.0): said[first], (TEST, 1.0): said[second]}
        losses = along(reader, parts, ALPHAS, partial(on_line, reader, line), known=known)[TEST]["nll"]
        _keep(results, "barriers", seed, name, barrier(losses, ALPHAS).height)


def _fractions(results: Results, skill: Skill, seed: int, versions: dict[int, Path], places: dict[int, Path]) -> None:
    """Other multiples of one delta, published beside the multiple 1."""
    names = {f"{moved(4, 5)}, times {alpha:g}": alpha for alpha in FRACTIONS}
    if any(results.missing(name, seed) for name in names):
        pair = rebase(places[4], versions[5])
        for name, alpha in names.items():
            with pair.at(alpha):
                results.add(name, seed, {TEST: skill.answers(pair)["accuracy"]})


def _begun(
    results, settings, skill: Skill, rate: float, seed: int, pair: tuple[int, int], path: Path, source: Path
) -> None:
    """The curve of tuning that begins at a moved delta: its first value, then after every so many steps."""
    name = moved(*pair)
    if name in _kept(results, "curves", seed):
        return
    start, out = (source.with_name(f"{word}-{pair[0]}-{pair[1]}") for word in ("start", "begun"))
    for place in (start, out):
        drop(place)
    rebase(source, path).save(start)
    found = skill.tuned(path, out, seed, rate, start=start, every=settings["every"])
    _keep(results, "curves", seed, name, [_mean(results, name, seed), *skill.curve(found, out)])
    for place in (start, out):
        drop(place)


def _recycle(results, settings, skill: Skill, rate: float, seed: int, versions: dict[int, Path]) -> None:
    """A quarter of the steps on every version, from the last one's delta, against the same steps on the last alone."""
    own, steps = results.folder / f"seed-{seed}", settings["steps"] // 4
    last = versions[RUN[-1]]

    def made(arm: str, pair: Pair) -> None:
        results.add(arm, seed, {TEST: skill.answers(pair)["accuracy"]})
        log.info("seed %d, %s: %.3f", seed, arm, _mean(results, arm, seed))

    before = own / "recycled-1"
    skill.tuned(versions[1], before, seed, rate, steps=steps)
    if results.missing(DIRECT, seed):
        made(DIRECT, skill.tuned(last, own / "direct", seed, rate, steps=steps))
    if results.missing(FIRST_ON_LAST, seed):
        rebase(before, last).save(own / "start-first")
        made(FIRST_ON_LAST, skill.tuned(last, own / "first", seed, rate, steps=steps, start=own / "start-first"))
    for i in RUN[1:]:
        start, after = own / f"start-{i}", own / f"recycled-{i}"
        if not start.exists():
            rebase(before, versions[i]).save(start)
        pair = skill.tuned(versions[i], after, seed, rate, steps=steps, start=start)
        before = after
        if i == RUN[-1]:
            made(RECYCLED, pair)


def _kept(results: Results, what: str, seed: int) -> dict[str, Any]:
    return results.notes.get(what, {}).get(str(seed), {})


def _keep(results: Results, what: str, seed: int, name: str, value: Any) -> None:
    all_of = results.notes.get(what, {})
    results.note(what, all_of | {str(seed): {**all_of.get(str(seed), {}), name: value}})


def _mean(results: Results, arm: str, seed: int) -> float:
    return round(float(np.mean(results.outcomes[arm][seed][TEST])), 4)


REPRODUCTION = Reproduction(
    slug="finetuning-transfer",
    paper="Efficient Model Development through Fine-tuning Transfer (arXiv 2503.20110)",
    claim="What fine-tuning added to one state of a pretraining run, added to a near one, recovers more than half of "
    "what tuning gains there; the less, the farther apart they are and the higher the barrier between their "
    "fine-tunes, and not across independent runs; tuning that starts from it needs at most half of the steps, and "
    "recycling a delta from version to version ends higher than tuning the last one at once.",
    module="merging/rebase/pair",
    verb="rebase",
    parts=(
        Part("more than half is recovered", "late neighbours, moved", "late neighbours, half the gain", (TEST,), 0.01),
        Part("near against far", "neighbours, where others are far", "far, moved", (TEST,), 0.01),
        Part("one run against another", "neighbours, moved", "independent, moved", (TEST,), 0.01),
        Part("low barriers, high recovery", "rank", "none", ("seeds",), 0.1),
        Part("at most half of the steps", "halvings of the steps", "one halving", ("seeds",)),
        Part("recycling against tuning at once", RECYCLED, DIRECT, (TEST,), 0.01),
        Part("another run's delta helps", "independent, moved", "bases", (TEST,), 0.01, counts=False),
        Part("fewer steps at all", "halvings of the steps", "none", ("seeds",), counts=False),
        Part("barriers, with the other run", "rank with control", "none", ("seeds",), 0.1, counts=False),
        Part("recycling against moving the first delta", RECYCLED, FIRST_ON_LAST, (TEST,), 0.01, counts=False),
    ),
    run=run,
    settings={
        "data": None,
        "seeds": 5,
        "shape": ["--layers", "3", "--width", "128", "--inner", "344"],
        "part_steps": 40,
        "characters": 900_000,
        "intents": 12,
        "rates": [1e-3, 3e-3, 1e-2],
        "steps": 200,
        "every": 20,
        "batch_size": 16,
        "max_length": 32,
        "precision": "bf16",
        "rows": 240,
    },
    reading="All counted parts hold. Between late states of one run a moved delta gives all that tuning gives (R "
    ".997); with distance it falls, .92, .66, .41 and .08 at one to four steps of the run, and to nothing "
    "between independent runs, in both directions. The barrier between two fine-tunes, measured on validation"
    " rows alone, ranks what a move will recover almost perfectly (.94): that is what `rebase --data` prints "
    "before and after. Moved deltas are worth two halvings of the steps as a start, and a delta that is moved"
    " and tuned a little from version to version ends 56 points above tuning the last version at once for the"
    " same steps, and 24 above moving the first delta all the way. Why it is so clear, probably: late states "
    "of a small run are close (between the last two bases there is no barrier at all), the bases know next to"
    " nothing of the task, and the task is learnt to 95 %. Versions of real models that differ by a new "
    "schedule or new data will lie further apart. The recipe's learning rate is the smallest of its grid.",
)
