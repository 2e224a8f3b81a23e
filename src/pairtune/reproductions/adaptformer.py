"""Small branches beside the feed-forward parts of a frozen vision transformer, against all weights and against less.

Paper: "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", arXiv 2205.13535.

Setting, cut to two cores: a base of 2.7 M parameters (`zoo:tiny-vit`, pretrained on emoji, icons and letters) in place
of ViT-B, CIFAR-10 in place of CIFAR-100, SVHN and Food-101, 100 images of each class, 200 steps of 16, AdamW. A seed
draws the training images and sets head, order and dropout; validation and test stay. Each arm's learning rate is the
best of three on validation with seed 0. The state after the last step is what counts. No video. The ranges of the rates
were set after looking at validation of single runs on an unfinished base and on digits; digits were given up for
photographs, and images and steps raised, when a linear probe of the finished base was right on 97 % of them, and before
any arm was run on either.

The arms: branches 64 and 1 wide; scale 1 instead of 0.1 at the same rate; in sequence instead of beside; all weights;
10 prompts a block (VPT-deep); a linear head on batch-normalised features ("linear": AdaptFormer's own head, over
branches that are scaled to nothing), and the plain head. The paper gives that head to all; here all weights and prompts
have the plain one, so that the two heads are compared, too.

"As good" is judged with a margin of two points, as a test of 600 rows has no power for less. A base as small as this
may know too little to be tuned through small branches, or so much that a head is enough: by the note, "more than a
linear head" says something only where all weights are 10 points above it, which is published as a part of its own.

A further experiment has 10 images of each class, and the rates of the first. The data folder (`cifar10_small`) is named
by PAIRTUNE_DATA or by `--set data=FOLDER`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pairtune.reproductions.encoders.arms import Arm, Bench
from pairtune.reproductions.encoders.cuts import IMAGES, drawn, stored, write_images
from pairtune.reproductions.frame import Experiment, Part, Reproduction, Results

WIDE, NARROW = "AdaptFormer-64", "AdaptFormer-1"
LARGE, BEHIND = "AdaptFormer-64, scale 1", "AdaptFormer-64, in sequence"
FULL, PROMPTS, LINEAR, HEAD = "all weights", "prompts", "linear", "plain head"
SET = "cifar10_small"


def arms(settings: dict[str, Any]) -> dict[str, Arm]:
    """Every arm: its tuner and the rates that it may choose from."""
    rates = settings["rates"]

    def adaptformer(r: int, **more: Any) -> dict[str, Any]:
        return {"name": "adaptformer", "r": r, **more}

    return {
        WIDE: Arm(adaptformer(64), rates["few"]),
        NARROW: Arm(adaptformer(1), rates["few"]),
        LARGE: Arm(adaptformer(64, scale=1.0), WIDE),
        BEHIND: Arm(adaptformer(64, form="sequential"), rates["few"]),
        FULL: Arm("full", rates["all"]),
        PROMPTS: Arm({"name": "deep-prompt", "prompts": settings["prompts"]}, rates["prompts"]),
        LINEAR: Arm(adaptformer(1, scale=1e-9), rates["head"]),
        HEAD: Arm("head", rates["head"]),
    }


def task_of(folder: Path, settings: dict[str, Any], seed: int) -> Path:
    """A seed's task: other training images for each, the same for validation and test."""
    (x, y), (test_x, test_y) = (stored(settings, SET, part) for part in ("train", "test"))
    held, tested = settings["validation"], settings["test"]
    splits = {
        "train": drawn((x[held:], y[held:]), settings["each"], seed),
        "validation": (x[:held], y[:held]),
        "test": (test_x[:tested], test_y[:tested]),
    }
    return write_images(folder / "tasks" / str(seed), splits)


def bench(results: Results, settings: dict[str, Any]) -> Bench:
    """What the arms have in common."""
    return Bench(results, settings, partial(task_of, results.folder, settings), IMAGES)


def run(results: Results, settings: dict[str, Any]) -> None:
    """Fill in what is missing, arm by arm and seed by seed."""
    bench(results, settings).fill(arms(settings))


def run_few(results: Results, settings: dict[str, Any], first: Results) -> None:
    """The same with few labels, at the rates that the first experiment chose."""
    for name in (WIDE, FULL):
        results.note(f"learning rate, {name}", first.notes[f"learning rate, {name}"])
        bench(results, settings).fill({name: replace(arms(settings)[name], rates=name)})


def _part(name: str, baseline: str, worth: float, method: str = WIDE, counts: bool = True) -> Part:
    return Part(name, method, baseline, ("test",), worth=worth, counts=counts)


REPRODUCTION = Reproduction(
    slug="adaptformer",
    paper="AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition (arXiv 2205.13535)",
    claim="Small parallel branches beside the feed-forward parts of a frozen vision transformer learn a new task as "
    "well as all weights do, with few labels, too, and better than prompts or a linear head; wider ones learn more.",
    module="tuners/adaptformer",
    verb="tune --tuner adaptformer",
    parts=(
        Part("as good as all weights", WIDE, FULL, ("test",), margin=0.02),
        _part("more than a linear head", LINEAR, 0.05),
        _part("more than prompts", PROMPTS, 0.01),
        _part("width helps", NARROW, 0.01),
        _part("beside, not behind", BEHIND, 0.01),
        # Published beside the claim.
        _part("the base leaves room above a head", LINEAR, 0.1, FULL, counts=False),
        _part("scale 0.1 against 1", LARGE, 0.01, counts=False),
        _part("one channel against prompts", PROMPTS, 0.01, NARROW, counts=False),
        _part("batch-normalised features against plain ones", HEAD, 0.01, LINEAR, counts=False),
    ),
    run=run,
    settings={
        "base": "zoo:tiny-vit",
        "data": None,
        "seeds": 5,
        "each": 100,
        "steps": 200,
        "batch": 16,
        "prompts": 10,
        "rates": {
            "few": [3e-3, 1e-2, 3e-2],
            "all": [3e-4, 1e-3, 3e-3],
            "prompts": [1e-2, 3e-2, 1e-1],
            "head": [1e-2, 3e-2, 1e-1],
        },
        "validation": 300,
        "test": 600,
        "precision": "bf16",
    },
    more=(
        Experiment(
            "few-labels",
            "10 images of each class",
            (Part("as good as all weights with few labels", WIDE, FULL, ("test",), margin=0.02),),
            run_few,
            {"each": 10},
        ),
    ),
)
