"""What the tests of merging share: fine-tuned copies of a checkpoint, and state dicts of random tensors."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from pairtune import registry
from pairtune.pair.checkpoint import Checkpoint
from pairtune.pair.files import write_safetensors

SHAPES = {"a.weight": (6, 10), "a.bias": (10,), "b.weight": (700, 513), "scalar": ()}


def moved(base: Path, folder: Path, seed: int, scale: float = 0.05, dtype: torch.dtype | None = None) -> Path:
    """A copy of a checkpoint whose every floating-point tensor has moved by noise."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    rng = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in Checkpoint(base).items():
        found = tensor.float() + scale * torch.randn(tensor.shape, generator=rng)
        tensors[name] = found.to(dtype or tensor.dtype) if tensor.is_floating_point() else tensor.clone()
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
    return folder


def states(count: int, dtype: torch.dtype = torch.float32, scale: float = 0.1) -> tuple[dict, list[dict]]:
    """A base of random tensors and models near it."""
    rng = torch.Generator().manual_seed(7)
    base = {name: torch.randn(shape, generator=rng) for name, shape in SHAPES.items()}
    models = [
        {name: (t + scale * torch.randn(t.shape, generator=rng)).to(dtype) for name, t in base.items()}
        for _ in range(count)
    ]
    return {name: tensor.to(dtype) for name, tensor in base.items()}, models


def configured(name: str, **settings):
    """A method by its name, as people type it."""
    return registry.build("merging", name, settings)


def statistics(method, models: list[dict]) -> list[dict] | None:
    """What a method that looks at data might have collected of each model; None for a method that does not."""
    if "samples" not in method.needs:
        return None
    rng = torch.Generator().manual_seed(11)
    return [_COLLECTED[type(method).__name__](model, rng) for model in models]


def _information(model: dict, rng: torch.Generator) -> dict:
    return {name: torch.rand(tensor.shape, generator=rng) for name, tensor in model.items()}


def _inner_products(model: dict, rng: torch.Generator) -> dict:
    inputs = {name: torch.randn(40, t.shape[1], generator=rng).double() for name, t in model.items() if t.ndim == 2}
    return {name: x.T @ x / len(x) for name, x in inputs.items()}


_COLLECTED = {"Fisher": _information, "RegMean": _inner_products}
