"""LEVI on a real domain shift: product reviews, tuned on books, tested on four other domains.

Paper: "LEVI: Generalizable Fine-tuning via Layer-wise Ensemble of Different Views", arXiv 2402.04644 (ICML 2024).

Setting, cut to two cores: a frozen 22 M-parameter sentence encoder (`zoo:minilm`), 600 training and 200 validation
reviews, the first 64 tokens of each, 300 test reviews a domain. Every stage of every arm has the same number of passes
with early stopping on ID validation, and a learning rate out of four chosen on ID validation with seed 0. Nothing is
chosen on a test split.

The data folder (five `<domain>_train.jsonl.gz` and `<domain>_test.jsonl.gz` with `text` and `label`) is named by the
environment variable PAIRTUNE_DATA or by `--set data=FOLDER`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pairtune.analysis.predict import Reader, head_outputs
from pairtune.data.readers import read
from pairtune.data.task import Task
from pairtune.errors import InputError
from pairtune.pair.pair import Pair
from pairtune.pair.staging import staged_folder
from pairtune.reproductions.frame import Part, Reproduction, Results
from pairtune.training.run import tune

log = logging.getLogger("pairtune")
DOMAINS = ("books", "dvd", "electronics", "kitchen", "video")
OOD = tuple(f"ood/{domain}" for domain in DOMAINS[1:])
FROZEN_RATES, TUNED_RATES = (3e-4, 1e-3, 3e-3, 1e-2), (1e-5, 3e-5, 1e-4, 3e-4)
LEVI: dict[str, Any] = {"name": "levi"}
# Arm → (tuner or stages, grid of learning rates).
ARMS: dict[str, tuple[Any, tuple[float, ...]]] = {
    # On the mean of the last block's tokens, as this encoder was trained to be read.
    "linear probe": (LEVI | {"layers": "last", "small": "none", "depth": 1}, FROZEN_RATES),
    "LEVI": (LEVI, FROZEN_RATES),
    "(a) no small model": (LEVI | {"small": "none"}, FROZEN_RATES),
    "(b) last block only": (LEVI | {"layers": "last"}, FROZEN_RATES),
    "(c) small model alone": (LEVI | {"layers": "none"}, FROZEN_RATES),
    "(d) dependent view": (LEVI | {"view": "base"}, FROZEN_RATES),
    "(g) random base": (LEVI | {"random_base": 1}, FROZEN_RATES),
    "full tuning": ({"name": "full"}, TUNED_RATES),
    "the model's own head": ({"name": "head"}, FROZEN_RATES),
    "LP-FT": ([{"tuner": {"name": "head"}, "training": {"lr": 3e-3}}, {"tuner": {"name": "full"}}], TUNED_RATES),
    "LEVI on the tuned base": ([{"tuner": {"name": "full"}}, {"tuner": LEVI, "training": {"lr": 1e-3}}], TUNED_RATES),
}
ENSEMBLE, BEST_HEAD = "(e) output ensemble", "(f) best single head"


def run(results: Results, settings: dict[str, Any]) -> None:
    """Fill in what is missing, cheap arms first."""
    task = reviews(results, settings)
    log.info("%s", {name: len(split) for name, split in task.splits.items()})
    for arm, (tuner, rates) in ARMS.items():
        rate = _rate(results, task, arm, tuner, rates, settings)
        for seed in range(settings["seeds"]):
            if results.missing(arm, seed):
                pair = _tuned(results, task, arm, tuner, rate, seed, settings)
                outputs = _outputs(pair, task, settings)
                np.savez(_logits(results, arm, seed), **outputs)  # type: ignore[arg-type]
                results.add(arm, seed, _right(outputs, task))
                if arm == "LEVI":
                    _choose_head(pair, task, settings)
                    results.add(BEST_HEAD, seed, _right(_outputs(pair, task, settings), task))
                log.info("%s, seed %d: %s", arm, seed, _means(results.outcomes[arm][seed]))
    for seed in range(settings["seeds"]):
        one, two = (dict(np.load(_logits(results, arm, seed))) for arm in ("full tuning", "(c) small model alone"))
        mean = {split: np.logaddexp(one[split], two[split]) for split in one}
        results.add(ENSEMBLE, seed, _right(mean, task))


def reviews(results: Results, settings: dict[str, Any]) -> Task:
    """The cut data as a task folder: books to tune on, each domain's test reviews as a split."""
    folder = results.folder / "reviews"
    if not folder.is_dir():
        root = settings["data"] or os.environ.get("PAIRTUNE_DATA")
        source = Path(root or ".") / "amazon_domains"
        if not source.is_dir():
            raise InputError(f"{source}: there is no such folder; name the data folder with --set data=FOLDER")
        books = [row for _, row in read(source / "books_train.jsonl.gz")]
        sizes = settings["train"], settings["train"] + settings["validation"]
        splits = {"train": books[: sizes[0]], "validation": books[sizes[0] : sizes[1]]}
        for split, domain in zip(("test", *OOD), DOMAINS, strict=True):
            splits[split] = [row for _, row in read(source / f"{domain}_test.jsonl.gz")][: settings["test"]]
        with staged_folder(folder) as staging:
            (staging / "ood").mkdir()
            for split, rows in splits.items():
                lines = [json.dumps({"text": row["text"], "label": row["label"]}) for row in rows]
                (staging / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return Task.load(folder, kind="classification", text="text", label="label", name="reviews")


def _rate(results: Results, task: Task, arm: str, tuner: Any, rates: tuple[float, ...], settings: dict) -> float:
    """The learning rate with the best ID validation accuracy, seed 0; chosen once and kept."""
    tried = dict(results.notes.get(f"validation accuracy, {arm}", {}))
    for rate in rates:
        if str(rate) not in tried:
            pair = _tuned(results, task, arm, tuner, rate, 0, settings)
            outputs = head_outputs(Reader(pair, task, settings["max_length"]), task.split("validation"))
            truth = np.array([task.target(row) for row in task.split("validation")])
            tried[str(rate)] = float((outputs.argmax(1) == truth).mean())
            results.note(f"validation accuracy, {arm}", tried)
            log.info("%s, learning rate %g: validation accuracy %.3f", arm, rate, tried[str(rate)])
    # The larger of equal rates: with the same epochs it is the less under-trained one.
    best = max(rates, key=lambda rate: (tried[str(rate)], rate))
    results.note(f"learning rate, {arm}", best)
    return best


def _tuned(results: Results, task: Task, arm: str, tuner: Any, rate: float, seed: int, settings: dict) -> Pair:
    """Tune one arm. Runs share the cached activations of the frozen base, which depend on no seed."""
    out = results.folder / "arms.sweep" / f"{list(ARMS).index(arm)}-{rate:g}-{seed}"
    config: dict[str, Any] = {
        "base": settings["base"],
        "data": str(results.folder / "reviews"),
        "seed": seed,
        "out": str(out),
    }
    config["training"] = {
        "lr": rate,
        "epochs": settings["epochs"],
        "batch_size": 16,
        "max_length": settings["max_length"],
        "metric": "accuracy",
        "patience": 3,
        "keep": 1,
        "precision": settings["precision"],
    }
    config |= {"stages": tuner} if isinstance(tuner, list) else {"tuner": tuner}
    out.parent.mkdir(parents=True, exist_ok=True)
    pair = tune(config, restart=True)
    for folder in (out, out.with_name(out.name + ".run")):
        shutil.rmtree(folder, ignore_errors=True)
    return pair


def _outputs(pair: Pair, task: Task, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """Log-probabilities [N, 2] on the test split and every OOD split."""
    reader = Reader(pair, task, settings["max_length"])
    return {name: head_outputs(reader, task.split(name)) for name in ("test", *OOD)}


def _choose_head(pair: Pair, task: Task, settings: dict[str, Any]) -> None:
    reader = Reader(pair, task, settings["max_length"])
    batches = (batch for _, batch in reader.batches(task.split("validation")))
    pair.top.installed.choose_head(batches)  # type: ignore[attr-defined]


def _right(outputs: dict[str, np.ndarray], task: Task) -> dict[str, np.ndarray]:
    """1 for a right and 0 for a wrong answer, by split."""
    return {
        split: values.argmax(1) == np.array([task.target(row) for row in task.split(split)])
        for split, values in outputs.items()
    }


def _logits(results: Results, arm: str, seed: int) -> Path:
    (results.folder / "outputs").mkdir(exist_ok=True)
    return results.folder / "outputs" / f"{list(ARMS).index(arm)}-{seed}.npz"


def _means(outcome: dict[str, list[float]]) -> str:
    return ", ".join(f"{split} {np.mean(values):.3f}" for split, values in outcome.items())


REPRODUCTION = Reproduction(
    slug="levi",
    paper="LEVI: Generalizable Fine-tuning via Layer-wise Ensemble of Different Views (arXiv 2402.04644)",
    claim="On a domain shift, LEVI is more accurate out of distribution than either of its views, than tuning the "
    "base, and than its own ablations.",
    module="tuners/levi",
    verb="tune --tuner levi",
    parts=tuple(
        Part(f"against {arm}", "LEVI", arm, OOD, worth=0.01)
        for arm in ("linear probe", "(c) small model alone", "full tuning", "LP-FT", "(a) no small model", ENSEMBLE)
    ),
    run=run,
    settings={
        "base": "zoo:minilm",
        "data": None,
        "seeds": 5,
        "train": 600,
        "validation": 200,
        "test": 300,
        "max_length": 64,
        "epochs": 6,
        "precision": "bf16",
    },
)
