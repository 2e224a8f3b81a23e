"""Does the tangent kernel at the base say how tuning will go: how linear it stays, and which layers to tune?

Paper: "Linearization Explains Fine-Tuning in Large Language Models", arXiv 2602.08239.

Setting, cut to two cores and kept to what the theory assumes: zoo:minilm under a random head that stays as it is, one
output a text, squared loss on ±1, full-batch gradient descent, a few dozen short sentences of SST-2. The rate is
0.3 / (σ_1(K) + λ) for every set of layers, so that differences of scale are not mistaken for those of the spectrum. A
seed draws sentences and head. The paper tunes LoRA on RoBERTa; here whole blocks move, as a LoRA's kernel depends on
its own random factor. Its tables were not found: the thresholds are the note's.

A  All blocks, pulls λ over four decades. Judged: under the strongest pull the relative linearisation error is at most a
   tenth of that under the weakest, and the distance from the base stays below √(2 R(θ0) / λ) at every λ.
B  Single blocks, lower and upper halves, all: Spearman's correlation over these sets between log κ(K_S) and the
   training loss after equal steps. Judged: it is above 0; published: above 0.6, and that with test accuracy below -0.4
   (with the sign turned), and the same correlation of the trace and of the number of weights.
C  The best of the single blocks by κ against the mean of the others: training loss after equal steps.

The data folder (`movie_sentiment`) is named by PAIRTUNE_DATA or by `--set data=FOLDER`.
"""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from pairtune.analysis.kernel_spectrum import condition, spectrum
from pairtune.analysis.ntk import candidates, modules_of, outputs_of
from pairtune.analysis.row_loss import RowLoss
from pairtune.analysis.tangent_kernel import kernels
from pairtune.data.task import Task
from pairtune.pair.base import Base
from pairtune.pair.pair import Pair, evaluating
from pairtune.reproductions.frame import Experiment, Part, Reproduction, Results
from pairtune.reproductions.sources import rows_of, write_task
from pairtune.reproductions.tangent.descent import Problem

log = logging.getLogger("pairtune")
SENTENCES = {"kind": "classification", "text": "text", "label": "label", "name": "sentences"}
WEAK, STRONG = "the weakest pull, a tenth of its error", "the strongest pull"
BOUND, REACHED = "the bound on the distance", "the distance"
KAPPA, ZERO, HIGH = "rank correlation of κ", "none", "0.6"
BEST, OTHERS = "best block by κ", "mean of the other blocks"
LONGEST = 12  # words of a sentence


def problem_of(settings: dict[str, Any], folder: Any, seed: int) -> tuple[Base, list[dict], list[dict], Task]:
    """Base with a head of its own, training and test batches of a seed."""
    path = folder / f"sentences-{seed}"
    if not path.is_dir():
        train = [
            row for row in rows_of(settings, "movie_sentiment", "sst2_train") if len(row["text"].split()) <= LONGEST
        ]
        test = [row for row in rows_of(settings, "movie_sentiment", "sst2_test") if len(row["text"].split()) <= LONGEST]
        random.Random(seed).shuffle(train)
        random.Random(0).shuffle(test)
        write_task(
            path, {"train": train[: settings["train"]], "test": test[: settings["test"]], "validation": test[:1]}
        )
    task = Task.load(str(path), **SENTENCES)  # type: ignore[arg-type]
    base = Base.load(settings["base"], task=task.kind, labels=task.labels, device="cpu", head_seed=seed)
    batches = {split: RowLoss.of(Pair(base), task, task.split(split)).batches for split in ("train", "test")}
    return base, batches["train"], batches["test"], task


def layer_kernels(base: Base, task: Task, batches: list[dict]) -> dict[str, np.ndarray]:
    """Kernel of each block over the training rows."""
    with evaluating(base.model):
        return kernels(modules_of(base, candidates(base)), batches, outputs_of(base, task), base.blocks[0][1])


def names_of(base: Base, blocks: list[str]) -> list[str]:
    """What the kernels of these blocks cover."""
    chosen = modules_of(base, {name: names for name, names in candidates(base).items() if name in blocks})
    inside = {id(p) for own in chosen.values() for module in own.values() for p in module.parameters(recurse=False)}
    return [name for name, parameter in base.parameters.items() if id(parameter) in inside]


def run(results: Results, settings: dict[str, Any]) -> None:
    """Experiment A."""
    for seed in range(settings["seeds"]):
        if not results.missing(BOUND, seed):
            continue
        base, train, _, task = problem_of(settings, results.folder, seed)
        found = layer_kernels(base, task, train)
        largest = float(spectrum(np.sum(list(found.values()), axis=0))[0])
        problem = Problem(base, names_of(base, list(found)), train)
        errors, distances, limits = [], [], []
        for weight in settings["pulls"]:
            made = problem.descend(weight, settings["rate"] / (largest + weight), settings["steps"])
            errors.append(problem.linearisation_error(made.delta))
            distances.append(made.distance)
            limits.append((2 * made.losses[0] / weight) ** 0.5)
            log.info("seed %d, λ %g: error %.4f, distance %.4f", seed, weight, errors[-1], made.distance)
        results.note(f"seed {seed}", {"error": errors, "distance": distances, "bound": limits, "largest": largest})
        results.add(STRONG, seed, {"error": [-np.log10(max(errors[-1], 1e-12))]})
        results.add(WEAK, seed, {"error": [1 - np.log10(max(errors[0], 1e-12))]})
        results.add(REACHED, seed, {"distance": distances})
        results.add(BOUND, seed, {"distance": limits})


def sets_of(found: dict[str, np.ndarray]) -> dict[str, list[str]]:
    """Single blocks, halves and all."""
    names, half = list(found), len(found) // 2
    return {name: [name] for name in names} | {"lower": names[:half], "upper": names[half:], "all": names}


def choose_layers(results: Results, settings: dict[str, Any], _first: Results) -> None:
    """Experiments B and C."""
    for seed in range(settings["seeds"]):
        if not results.missing(OTHERS, seed):
            continue
        base, train, test, task = problem_of(settings, results.folder, seed)
        found = layer_kernels(base, task, train)
        table: dict[str, dict[str, float]] = {}
        for name, blocks in sets_of(found).items():
            values = spectrum(np.sum([found[block] for block in blocks], axis=0))
            problem = Problem(base, names_of(base, blocks), train)
            made = problem.descend(0.0, settings["rate"] / float(values[0]), settings["steps"])
            table[name] = {
                "log condition": float(np.log(condition(values))),
                "trace": float(values.sum()),
                "weights": float(sum(p.numel() for p in problem.point.values())),
                "training loss": made.losses[-1] / made.losses[0],
                "accuracy": float(np.mean(problem.right(made.delta, test))),
            }
            log.info("seed %d, %s: %s", seed, name, {k: round(v, 4) for k, v in table[name].items()})
        results.note(f"seed {seed}", table)
        _judge(results, seed, table, list(found))


def _judge(results: Results, seed: int, table: dict[str, dict[str, float]], singles: list[str]) -> None:
    def rho(one: str, other: str) -> float:
        first, second = ([facts[name] for facts in table.values()] for name in (one, other))
        found: Any = spearmanr(first, second)
        return float(np.nan_to_num(found.statistic))

    with_accuracy = -rho("log condition", "accuracy")
    results.add(KAPPA, seed, {"loss": [rho("log condition", "training loss")], "accuracy": [with_accuracy]})
    results.add(ZERO, seed, {"loss": [0.0], "accuracy": [0.0]})
    results.add(HIGH, seed, {"loss": [0.6], "accuracy": [0.4]})
    for name in ("trace", "weights"):
        results.add(f"rank correlation of {name}", seed, {"loss": [rho(name, "training loss")]})
    best = min(singles, key=lambda name: table[name]["log condition"])
    others = [table[name]["training loss"] for name in singles if name != best]
    results.add(BEST, seed, {"loss": [-table[best]["training loss"]]})
    results.add(OTHERS, seed, {"loss": [-float(np.mean(others))]})


REPRODUCTION = Reproduction(
    slug="linearized-finetuning",
    paper="Linearization Explains Fine-Tuning in Large Language Models (arXiv 2602.08239)",
    claim="The stronger the pull to the base, the more linear tuning is, within a bound on the distance; and layers "
    "whose tangent kernel at the base is better conditioned reach a lower training loss in equal steps.",
    module="tuners/linearized, analysis/ntk",
    verb="inspect ntk",
    parts=(
        Part("ten times more linear", STRONG, WEAK, ("error",)),
        Part("within the bound", BOUND, REACHED, ("distance",)),
    ),
    run=run,
    settings={
        "data": None,
        "base": "zoo:minilm",
        "seeds": 5,
        "train": 48,
        "test": 200,
        "steps": 30,
        "rate": 0.3,
        "pulls": [0.1, 1.0, 10.0, 100.0, 1000.0],
    },
    more=(
        Experiment(
            "layers",
            "nine sets of blocks, equal steps",
            (
                Part("κ ranks the training loss", KAPPA, ZERO, ("loss",)),
                Part("the best block by κ learns faster", BEST, OTHERS, ("loss",), worth=0.01),
                Part("κ ranks the training loss at 0.6", KAPPA, HIGH, ("loss",), counts=False),
                Part("κ ranks test accuracy at -0.4", KAPPA, HIGH, ("accuracy",), counts=False),
            ),
            choose_layers,
            {},
        ),
    ),
)
