"""Pairs with a dense delta on the tiny checkpoints, without any tuner."""

import torch
from torch import nn

from pairtune.pair.base import Base
from pairtune.pair.installed import SwappedParameters
from pairtune.pair.pair import Layer, Pair


def dense_pair(folder, noise=0.0, seed=0, only=None, **load):
    """Every floating parameter (or those that `only` accepts) swapped for a trainable copy, moved by `noise`."""
    base = Base.load(folder, device="cpu", dtype="float32", **load)
    generator = torch.Generator().manual_seed(seed)
    variants = {}
    for name, parameter in base.model.named_parameters():
        if only is None or only(name):
            moved = parameter.detach() + noise * torch.randn(parameter.shape, generator=generator)
            variants[name] = nn.Parameter(moved.clone())
    installed = SwappedParameters(base.model, variants)
    return Pair(base, [Layer(installed, lambda: None, {"tuner": {"name": "full"}})])  # type: ignore[arg-type,return-value]
