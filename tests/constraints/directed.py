"""Pairs and files of directions for the constraints that take them."""

import torch

from pairtune import registry
from pairtune.constraints.directions import Directions
from pairtune.pair.base import Base
from pairtune.pair.pair import Layer, Pair


def a_file(folder, width=16, k=2, seed=0):
    """Random directions, others on each side; and where they lie."""
    generator = torch.Generator().manual_seed(seed)
    found = Directions.of(torch.randn(width, k, generator=generator), torch.randn(width, k, generator=generator))
    found.save(folder / "directions.safetensors")
    return found, str(folder / "directions.safetensors")


def tuned_by(folder, tuner="lora", task=None, labels=None, **settings):
    """A pair with a fresh delta of a tuner."""
    base = Base.load(folder, device="cpu", dtype="float32", task=task, labels=labels)
    torch.manual_seed(0)
    made = registry.build("tuners", tuner, settings)
    installed = made.install(base, base.model)
    return Pair(base, [Layer(installed, lambda: made.extract(installed), {"tuner": {"name": tuner}})])
