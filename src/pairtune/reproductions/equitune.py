"""A classifier of upright digits on turned ones: the mean over turns, the surest turn, and learnt weights of turns.

Paper: "Efficient Equivariant Transfer Learning from Pretrained Models", arXiv 2305.09900.

Setting, cut to two cores: `zoo:tiny-vit` (2.7 M parameters), all of whose weights are first tuned on upright digits
(MNIST without 6 and 9, which turn into one another; 80 of each class, 150 steps of 16), takes the place of CLIP; the
group are the four quarter turns. The test images are turned at random, each by itself. A seed draws the training images
and sets head, order and dropout; validation and test stay. Learning rates are the best of three on validation with seed
0, the model's of two. Sizes were set after a trial with a fifth of the steps on an unfinished base.

Without training: the model on the turned images and on the same upright ones, the mean over turns (equitune), the
surest turn (equizero, by entropy and by the largest probability). With labelled images that the model has not seen:
the weights of the turns alone (lambda, 80 steps of 8), then the model under them; the model under the mean (40 steps of
8, four turns each); and the model on turned images as they are, without a group (40 steps of 32), which costs as many
passes to train and a quarter of them to use. No language, no convolutional network: the paper's gain of lambda after
tuning is largest with the latter.

Judged: the mean is better than the model, selection and learnt weights are better than the mean, selection gets back
70 % of what turning costs, after tuning weights beat the mean, and no answer moves by more than 1e-4 (log-probability,
float32) when its image is turned. The data folder (`mnist_small`) is named by PAIRTUNE_DATA or by `--set data=FOLDER`.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Any

import torch

from pairtune.data.task import Task
from pairtune.pair.base import Base
from pairtune.pair.export import export_merged
from pairtune.pair.pair import Pair
from pairtune.reproductions.encoders.arms import Arm, Bench
from pairtune.reproductions.encoders.cuts import IMAGES
from pairtune.reproductions.frame import Part, Reproduction, Results
from pairtune.reproductions.turned.digits import turned_task, upright_task

log = logging.getLogger("pairtune")
MODEL, RECOVERED = "the model", "the model, 70 % of the loss back"
MEAN, SUREST, CONFIDENT, WEIGHTED = "equitune", "equizero", "equizero, confidence", "lambda"
TUNED_MEAN, TUNED_WEIGHTED, TURNED = "equitune, tuned", "lambda, tuned", "tuned on turned images"
INVARIANT = (MEAN, SUREST, CONFIDENT, WEIGHTED, TUNED_MEAN, TUNED_WEIGHTED)
LEAST, BOUND = "the least invariant of them", "a change of 1e-4"
LOOKED_AT = 16  # images on which the invariance is measured


def still(mode: str, **more: Any) -> Arm:
    """A mode without training."""
    return Arm({"name": "equitune", "group": "rot90", "mode": mode, "train": "nothing", **more})


def arms(settings: dict[str, Any], weights_rate: float | None) -> dict[str, Arm]:
    """The arms that are tuned; those of two stages need the rate of the first."""
    rates, steps = settings["rates"], settings["steps"]
    group = {"name": "equitune", "group": "rot90"}
    first = {"max_steps": settings["weights steps"], "eval_every": settings["weights steps"]}
    found = {WEIGHTED: Arm({**group, "mode": "lambda"}, rates["weights"], first)}
    if weights_rate is not None:
        stages = [
            {"tuner": {**group, "mode": "lambda"}, "training": {**first, "lr": weights_rate}},
            {"tuner": {**group, "mode": "lambda", "train": "base"}, "rewind": True},
        ]
        found[TUNED_WEIGHTED] = Arm(stages, rates["base"])
        found[TUNED_MEAN] = Arm({**group, "mode": "equitune"}, rates["base"])
        equal = {"batch_size": 4 * settings["batch"], "max_steps": steps, "eval_every": steps}
        found[TURNED] = Arm("full", rates["base"], equal)
    return found


class Models:
    """The models of upright digits, a seed each, as checkpoints in the working folder; made where they are missing."""

    def __init__(self, results: Results, settings: dict[str, Any]):
        own = settings | {"steps": settings["model steps"], "batch": 2 * settings["batch"]}
        self.bench = Bench(results, own, partial(upright_task, results.folder, settings), IMAGES)
        self._arm = Arm("full", settings["rates"]["model"])

    def folder(self, seed: int) -> str:
        """Where a seed's model is."""
        place = self.bench.results.folder / "models" / str(seed)
        if not place.is_dir():
            place.parent.mkdir(exist_ok=True)
            pair = self.bench.tuned(self._arm, self.bench.rate(MODEL, self._arm), seed)
            export_merged(pair, place)
        return str(place)

    def measure(self, seed: int, on_turned: Bench) -> None:
        """Outcomes of the model itself, on turned images and on upright ones."""
        labels = Task.load(on_turned.task(seed), **IMAGES).labels
        pair = Pair(Base.load(self.folder(seed), task="classification", labels=labels, device="cpu"))
        found, upright = on_turned.right(pair, seed, "test"), self.bench.right(pair, seed, "test")
        on_turned.results.add(RECOVERED, seed, {"test": 0.3 * found + 0.7 * upright})
        on_turned.results.add(MODEL, seed, {"test": found, "upright": upright})
        log.info("%s, seed %d: turned %.4f, upright %.4f", MODEL, seed, found.mean(), upright.mean())


def run(results: Results, settings: dict[str, Any]) -> None:
    """Fill in what is missing, arm by arm and seed by seed."""
    models = Models(results, settings)
    task = partial(turned_task, results.folder, settings)
    bench = Bench(results, settings, task, IMAGES, models.folder, invariance)
    for seed in range(settings["seeds"]):
        if results.missing(MODEL, seed):
            models.measure(seed, bench)
    bench.fill({MEAN: still("equitune"), SUREST: still("equizero"), CONFIDENT: still("equizero", proxy="confidence")})
    bench.fill(arms(settings, None))
    bench.fill(arms(settings, float(results.notes[f"learning rate, {WEIGHTED}"])))
    for seed in range(settings["seeds"]):
        least = min(results.outcomes[arm][seed]["invariance"] for arm in INVARIANT)
        results.add(LEAST, seed, {"invariance": least})
        results.add(BOUND, seed, {"invariance": [4.0]})


@torch.inference_mode()
def invariance(pair: Pair) -> dict[str, list[float]]:
    """−log10 of the most that a log-probability changes when an image is turned: on noise, in float32."""
    config = pair.base.model.config
    shape = (LOOKED_AT, config.num_channels, config.image_size, config.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    answers = [pair.model(pixel_values=torch.rot90(images, turns, (-2, -1))).logits for turns in range(4)]
    worst = max(float((one - answers[0]).abs().max()) for one in answers[1:])
    return {"invariance": [-math.log10(max(worst, 1e-12))]}


def _part(name: str, method: str, baseline: str, worth: float = 0.01, counts: bool = True) -> Part:
    return Part(name, method, baseline, ("test",), worth=worth, counts=counts)


REPRODUCTION = Reproduction(
    slug="equitune",
    paper="Efficient Equivariant Transfer Learning from Pretrained Models (arXiv 2305.09900)",
    claim="A model of upright images is made exactly invariant to turns: the mean over turns is better than the model, "
    "the surest turn and learnt weights are better than the mean and get most of the loss back, and after tuning "
    "learnt weights stay better than the mean.",
    module="tuners/equitune",
    verb="tune --tuner equitune",
    parts=(
        _part("the mean against the model", MEAN, MODEL),
        _part("the surest turn against the mean", SUREST, MEAN),
        _part("learnt weights against the mean", WEIGHTED, MEAN),
        _part("the surest turn gets 70 % back", SUREST, RECOVERED, 0.0),
        _part("tuned, weights against the mean", TUNED_WEIGHTED, TUNED_MEAN),
        Part("invariant to 1e-4", LEAST, BOUND, ("invariance",)),
        # Published beside the claim.
        _part("entropy against the largest probability", SUREST, CONFIDENT, counts=False),
        _part("learnt weights against the surest turn", WEIGHTED, SUREST, counts=False),
        _part("tuning under the weights", TUNED_WEIGHTED, WEIGHTED, counts=False),
        _part("the group against turned images at equal passes", TUNED_WEIGHTED, TURNED, counts=False),
    ),
    run=run,
    settings={
        "base": "zoo:tiny-vit",
        "data": None,
        "seeds": 5,
        "each": 80,
        "model steps": 150,
        "weights steps": 80,
        "steps": 40,
        "batch": 8,
        "rates": {
            "model": [3e-4, 1e-3],
            "weights": [3e-4, 1e-3, 3e-3],
            "base": [3e-5, 1e-4, 3e-4],
        },
        "validation": 200,
        "test": 400,
        "precision": "bf16",
    },
)
