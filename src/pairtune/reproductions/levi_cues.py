"""Third experiment: one planted cue in pretraining, another in the tuning data; both are random in the test.

"Pretraining" is full tuning of the first three blocks of the base on 1500 reviews of DVDs that open with one of two
neutral sentences (cue s1), which agrees with the label in 95 % of them; its head is thrown away, and one such base is
made for all seeds. It is then tuned on reviews of books: s1 is random in them, and one of two other neutral sentences
at their end (cue s2) agrees with the label at a rate of 0.6 or 0.9. In the test both are random. "changed by s1" is the
share of test reviews whose answer changes when that sentence alone is exchanged. The documented failure case: in the
tuning data the cue is s1 itself, at 0.9, and s2 is random.

What was cut for two cores: three blocks of six, the first 20 words of 400 reviews, 5 passes. Learning rates are chosen
once an arm, at s2 0.6, and serve the other conditions. LP-FT and LEVI on the tuned base run at s2 0.6 only, arms that
tune the base not in the failure case."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from pairtune.pair import hub
from pairtune.reproductions.frame import Experiment, Part, Results
from pairtune.reproductions.levi_arms import (
    ENSEMBLE,
    FULL,
    NO_SMALL,
    ON_TUNED,
    PROBE,
    SMALL,
    Bench,
    ensemble,
    load_answers,
    save_backbone,
    write_model,
)
from pairtune.reproductions.levi_shift import domain_rows, load_task
from pairtune.reproductions.sources import Rows, write_task
from pairtune.training.run import tune
from pairtune.zoo import path as zoo_path

log = logging.getLogger("pairtune")
S1 = ("Posted on a Monday.", "Posted on a Friday.")
S2 = ("Shipped from London.", "Shipped from Paris.")
PRETRAINED_RATE = 0.95
BLOCKS, PRETRAINING, WORDS = 3, 1500, 20
WEAK, STRONG, SAME = "s2 0.6", "s2 0.9", "s1 = s2 0.9"
# Condition → rates at which (s1, s2) agree with the label in the tuning data.
CONDITIONS = {WEAK: (0.5, 0.6), STRONG: (0.5, 0.9), SAME: (0.9, 0.5)}
FROZEN = (PROBE, NO_SMALL, SMALL, "LEVI")
RUN = {WEAK: (*FROZEN, FULL, "LP-FT", ON_TUNED), STRONG: (*FROZEN, FULL), SAME: FROZEN}
# Split → which cues are exchanged for the other sentence.
EXCHANGED = {"random": (False, False), "s1-exchanged": (True, False), "s2-exchanged": (False, True)}


def run(results: Results, settings: dict[str, Any], shift: Results | None = None) -> None:
    """Fill in what is missing. `shift`, the results of the first experiment, is not needed."""
    base = pretrain(results, settings)
    rates: dict[str, float] = {}
    for condition, arms in RUN.items():
        folder = results.folder / f"books-{list(CONDITIONS).index(condition)}"
        if not folder.is_dir():
            write_task(folder, planted_books(settings, *CONDITIONS[condition]))
        bench = Bench(results, load_task(folder), folder, base, settings, condition)
        for arm in arms:
            if condition == WEAK:
                rates[arm] = bench.rate(arm)
            for seed in bench.missing(arm):
                pair = bench.tuned(arm, rates[arm], seed)
                if arm == FULL and ON_TUNED in arms:
                    bench.tuned_base(seed, pair)
                _add(bench, arm, seed, {name: bench.answers(pair, split) for name, split in _tests(bench).items()})
        for seed in bench.missing(ENSEMBLE) if FULL in arms else ():
            one, two = (load_answers(bench.kept(arm, seed)) for arm in (FULL, SMALL))
            _add(bench, ENSEMBLE, seed, ensemble(one, two))


def pretrain(results: Results, settings: Mapping[str, Any]) -> str:
    """The folder of the base that has learnt cue s1; made where it is not there."""
    folder, cut, data = (results.folder / name for name in ("base", "blocks", "dvd"))
    if folder.is_dir():
        return str(folder)
    from transformers import AutoModel

    source = settings["base"]
    given = zoo_path(source.removeprefix("zoo:")) if source.startswith("zoo:") else hub.local_folder(source)
    if not cut.is_dir():
        # The other blocks stay unused, and a checkpoint may lack the pooler.
        model, _ = hub.load_model(AutoModel, given, allow_new=lambda name: True, num_hidden_layers=BLOCKS)
        write_model(cut, model, hub.load_tokenizer(given))
    if not data.is_dir():
        rows = domain_rows(settings, "dvd_train")
        train, held = rows[:PRETRAINING], rows[PRETRAINING : PRETRAINING + settings["validation"]]
        rates = PRETRAINED_RATE, 0.5
        splits = {"train": planted(train, rates, 1), "validation": planted(held, rates, 2)}
        write_task(data, splits | {"ood/random": planted(held, (0.5, 0.5), 3)})
    training = {name: settings[name] for name in ("max_length", "precision")}
    training |= {"lr": 1e-4, "epochs": 3, "batch_size": 16, "metric": "accuracy", "keep": 1}
    out = results.folder / "pretraining"
    pair = tune(
        {"base": str(cut), "data": str(data), "seed": 0, "tuner": "full", "training": training, "out": str(out)},
        restart=True,
    )
    bench = Bench(results, load_task(data), data, str(cut), dict(settings))
    for split in ("validation", "ood/random"):
        rows = bench.task.split(split)
        right = bench.right(bench.answers(pair, rows), rows)
        results.note(f"pretrained model on DVD, {split}", float(right.mean()))
    save_backbone(pair, folder)
    for path in (out, out.with_name(out.name + ".run")):
        shutil.rmtree(path, ignore_errors=True)
    return str(folder)


def planted_books(settings: Mapping[str, Any], first: float, second: float) -> dict[str, Rows]:
    """Books to tune on, with cues that agree with the label at these rates, and the tests with random ones."""
    rows, tests = domain_rows(settings, "books_train"), domain_rows(settings, "books_test")[: settings["test"]]
    train, held = rows[: settings["train"]], rows[settings["train"] :][: settings["validation"]]
    rates = first, second
    splits = {
        "train": planted(train, rates, 1),
        "validation": planted(held, rates, 2),
        "test": planted(tests, rates, 3),
    }
    return splits | {f"ood/{name}": planted(tests, (0.5, 0.5), 4, flips) for name, flips in EXCHANGED.items()}


def planted(rows: Rows, rates: tuple[float, float], seed: int, flips: tuple[bool, bool] = (False, False)) -> Rows:
    """The first words of each text between two sentences that agree with the label at these rates.

    Args:
        rates: of s1 and s2; 0.5 is a sentence drawn at random. seed: of the draws.
        flips: which of the two is then exchanged for the other sentence.
    """
    labels = sorted({row["label"] for row in rows})
    draws = np.random.default_rng(seed).random((len(rows), 2))
    found = []
    for row, draw in zip(rows, draws, strict=True):
        side = labels.index(row["label"])
        one, two = (side ^ (draw[i] >= rates[i]) ^ flips[i] for i in range(2))
        text = " ".join([S1[one], *row["text"].split()[:WORDS], S2[two]])
        found.append({"text": text, "label": row["label"]})
    return found


def _add(bench: Bench, arm: str, seed: int, answers: dict[str, np.ndarray]) -> None:
    """Keep the answers, and what the parts of the claim are judged by."""
    if arm in (FULL, SMALL):  # of which the ensemble is made
        np.savez(bench.kept(arm, seed), allow_pickle=False, **answers)
    tests = _tests(bench)
    right = {name: bench.right(answers[name], tests[name]).astype(float) for name in ("ID", "random")}
    said = {name: values.argmax(1) for name, values in answers.items()}
    changed = {f"changed by {cue}": said["random"] != said[f"{cue}-exchanged"] for cue in ("s1", "s2")}
    outcome = {"ID": right["ID"], "random cues": right["random"], "drop": right["ID"] - right["random"]} | changed
    bench.results.add(bench.named(arm), seed, outcome)
    log.info(
        "%s, seed %d: %s", bench.named(arm), seed, {name: round(float(v.mean()), 3) for name, v in outcome.items()}
    )


def _tests(bench: Bench) -> dict[str, Any]:
    return {"ID": bench.task.split("test")} | {name: bench.task.split(f"ood/{name}") for name in EXCHANGED}


def _parts() -> tuple[Part, ...]:
    parts = []
    for condition in (WEAK, STRONG):
        for arm in (PROBE, SMALL, FULL, *(["LP-FT"] if condition == WEAK else []), NO_SMALL, ENSEMBLE):
            parts.append(_part(f"{condition}, against {arm}", "LEVI", arm, condition))
        for arm, cue in ((PROBE, "s1"), (SMALL, "s2")):
            name = f"{condition}, fewer answers changed by {cue} than in {arm}"
            parts.append(_part(name, arm, "LEVI", condition, f"changed by {cue}"))
    parts.append(_part(f"{WEAK}, {ON_TUNED}, against {FULL}", ON_TUNED, FULL, WEAK, counts=False))
    for arm in (PROBE, SMALL, NO_SMALL):
        parts.append(_part(f"failure case {SAME}, against {arm}", "LEVI", arm, SAME, counts=False))
    return tuple(parts)


def _part(name: str, method: str, other: str, condition: str, split: str = "random cues", counts: bool = True) -> Part:
    return Part(name, f"{method}, {condition}", f"{other}, {condition}", (split,), worth=0.01, counts=counts)


CUES = Experiment(
    name="cues",
    title="A cue s1 planted in pretraining, a cue s2 planted in the tuning data, both random in the test.",
    parts=_parts(),
    run=run,
    settings={"train": 400, "epochs": 5, "max_length": 40},
)
