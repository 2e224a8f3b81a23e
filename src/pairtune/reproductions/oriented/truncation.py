"""Every matrix of a base without its smallest components, as one decomposition or another orders them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pairtune.data import Collator, Encoder
from pairtune.data.task import Task
from pairtune.pair.base import Base
from pairtune.tuners.corda_initial import decompose
from pairtune.tuners.covariance import Moments, measure

Decomposition = Callable[[str, Tensor], tuple[Tensor, Tensor, Tensor]]  # name, W [o, i] → U, S, V̂ᵀ with W = U S V̂ᵀ


def layers_of(base: Base) -> dict[str, nn.Module]:
    """The linear layers in the blocks, by name."""
    inside = tuple(f"{name}." for name, _ in base.blocks)
    return {n: m for n, m in base.model.named_modules() if isinstance(m, nn.Linear) and n.startswith(inside)}


def context(base: Base, task: Task, rows: int, words: int, seed: int) -> Moments:
    """Second moments of the layers' inputs over some rows of a task's train split, drawn by a seed."""
    split = task.split("train")
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:rows].tolist()
    encoded = Encoder(task, base.tokenizer, base.family, words).split(split)
    collate = Collator(base.tokenizer, base.family)
    batches = [collate(encoded.take(order[i : i + 16])) for i in range(0, len(order), 16)]
    return measure(base, base.model, layers_of(base), batches)


def plain(_name: str, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The plain decomposition."""
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    return u, s, v


def scaled(moments: Moments) -> Decomposition:
    """ASVD's: inputs scaled by the square root of their typical size (the root mean square of each channel, here)."""

    def found(name: str, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = moments.of(name).double().diagonal().clamp(min=1e-12) ** 0.25
        u, s, v = torch.linalg.svd(weight.double() * size, full_matrices=False)
        return u, s, v / size

    return found


def oriented(moments: Moments) -> Decomposition:
    """CorDA's."""
    return lambda name, weight: decompose(weight, moments.of(name))[:3]


@contextlib.contextmanager
def without_smallest(base: Base, decomposition: Decomposition, share: float) -> Iterator[None]:
    """While inside, each matrix lacks this share of its components, the smallest; the Parameters come back after."""
    kept = {name: layer._parameters["weight"] for name, layer in layers_of(base).items()}
    try:
        for name, layer in layers_of(base).items():
            weight = kept[name]
            assert weight is not None
            u, s, v = decomposition(name, weight.detach())
            left = len(s) - round(share * len(s))
            value = (u[:, :left] * s[:left] @ v[:left]).to(weight.dtype)
            layer._parameters["weight"] = nn.Parameter(value, requires_grad=False)
        yield
    finally:
        for name, layer in layers_of(base).items():
            layer._parameters["weight"] = kept[name]
