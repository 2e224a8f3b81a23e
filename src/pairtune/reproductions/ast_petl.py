"""Adapters that mix neighbouring tokens, against plain ones and other few parameters, on a spectrogram transformer.

Paper: "Parameter-Efficient Transfer Learning of Audio Spectrogram Transformers", arXiv 2312.03694.

Setting, cut to two cores: a base of 2.7 M parameters (`zoo:tiny-ast`, pretrained on sounds made by
rule) in place of AST, spoken digits in place of five sets of sound and speech, 20 recordings of each digit, 60 steps
of 12, AdamW. A seed draws the recordings and sets head, order and dropout; validation and test stay (takes of the same
six speakers that training does not have). The head reads the class tokens, which attention has mixed. Each arm's
learning rate is the best of three on validation with seed 0; the state after the last step is what counts.

The arms: Conformer adapters beside the feed-forward parts, 8 channels wide as in the paper and 31 tokens long; with a
kernel of 1, which mixes no tokens; with the residual connection that the paper advises against, at the same rate; plain
bottlenecks beside the same parts with as many numbers (2 % more); LoRA of rank 8; all weights; the head alone. Left out
are prompts, biases, and the forms in sequence: without a residual connection and with a zero start, those begin without
the feed-forward parts, so that what the paper compares there is not what would be compared here.

"As good" is judged with a margin of two points. Trainable numbers stand under "choices". The data folder (`fsdd`) is
named by PAIRTUNE_DATA or by `--set data=FOLDER`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from pairtune.reproductions.encoders.arms import Arm, Bench
from pairtune.reproductions.encoders.cuts import SOUNDS, recordings, write_sounds
from pairtune.reproductions.frame import Part, Reproduction, Results

CONFORMER, ALONE, RESIDUAL, PLAIN = "Conformer", "Conformer, kernel 1", "Conformer, residual", "bottleneck"
LORA, FULL, HEAD = "LoRA", "all weights", "head"
VALIDATION_TAKES, TEST_TAKES = range(23, 25), range(22, 23)  # of those that the set gives to training


def arms(settings: dict[str, Any]) -> dict[str, Arm]:
    """Every arm: its tuner and the rates that it may choose from."""
    rates = settings["rates"]

    def conformer(**more: Any) -> dict[str, Any]:
        return {"name": "conformer-adapter", "reduction": settings["reduction"], "kernel": settings["kernel"], **more}

    plain = {"name": "adapter", "reduction": settings["plain reduction"], "form": "parallel"}
    return {
        CONFORMER: Arm(conformer(), rates["few"]),
        ALONE: Arm(conformer(kernel=1), rates["few"]),
        PLAIN: Arm(plain, rates["few"]),
        RESIDUAL: Arm(conformer(residual=True), CONFORMER),
        LORA: Arm({"name": "lora", "r": 8, "alpha": 16}, rates["few"]),
        FULL: Arm("full", rates["all"]),
        HEAD: Arm("head", rates["head"]),
    }


def task_of(folder: Path, settings: dict[str, Any], seed: int) -> Path:
    """A seed's task: other recordings to train on for each, the same for validation and test."""
    known, tested = (recordings(settings, "fsdd", part) for part in ("train", "test"))
    held = {*VALIDATION_TAKES, *TEST_TAKES}
    splits = {
        "train": [row for row in known if int(row["take"]) not in held],
        "validation": [row for row in known if int(row["take"]) in VALIDATION_TAKES],
        "test": tested + [row for row in known if int(row["take"]) in TEST_TAKES],
    }
    return write_sounds(folder / "tasks" / str(seed), splits, "digit", settings["each"], seed)


def run(results: Results, settings: dict[str, Any]) -> None:
    """Fill in what is missing, arm by arm and seed by seed."""
    task = partial(task_of, results.folder, settings)
    Bench(results, settings, task, SOUNDS | {"label": "digit"}).fill(arms(settings))


def _part(name: str, method: str, baseline: str, counts: bool = True) -> Part:
    return Part(name, method, baseline, ("test",), worth=0.01, counts=counts)


REPRODUCTION = Reproduction(
    slug="ast-petl",
    paper="Parameter-Efficient Transfer Learning of Audio Spectrogram Transformers (arXiv 2312.03694)",
    claim="On a frozen spectrogram transformer, adapters learn more than LoRA; those with a convolution over the "
    "tokens beat plain ones of equal size by mixing neighbours, and are as good as all weights.",
    module="tuners/conformer_adapter",
    verb="tune --tuner conformer-adapter",
    parts=(
        _part("convolutions beat plain bottlenecks", CONFORMER, PLAIN),
        _part("by mixing neighbours", CONFORMER, ALONE),
        Part("as good as all weights", CONFORMER, FULL, ("test",), margin=0.02),
        _part("more than LoRA", CONFORMER, LORA),
        _part("better without a residual connection", CONFORMER, RESIDUAL),
        # Published beside the claim.
        _part("more than the head", CONFORMER, HEAD, counts=False),
        _part("plain bottlenecks against LoRA", PLAIN, LORA, counts=False),
    ),
    run=run,
    settings={
        "base": "zoo:tiny-ast",
        "data": None,
        "seeds": 5,
        "each": 20,
        "steps": 60,
        "batch": 12,
        "reduction": 24,
        "plain reduction": 14,
        "kernel": 31,
        "rates": {
            "few": [1e-3, 3e-3, 1e-2],
            "all": [3e-4, 1e-3, 3e-3],
            "head": [3e-3, 1e-2, 3e-2],
        },
        "precision": "bf16",
    },
)
