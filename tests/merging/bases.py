"""Versions of a tiny base, and fine-tunes of them, as checkpoints on disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROWS = [{"text": text, "label": label} for text, label in (
    ("the cat sat on the mat", "cat"), ("a cat is in the house", "cat"), ("the dog ran", "dog"), ("a dog sat", "dog"),
)]  # fmt: skip


def nudged(base: Path, out: Path, seed: int = 1, size: float = 0.05, only: str = "") -> Path:
    """A copy of a checkpoint whose float tensors (those whose name contains `only`) are moved at random."""
    shutil.copytree(base, out)
    weights = load_file(out / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and only in name:
            noise = torch.randn(tensor.shape, generator=generator)
            weights[name] = (tensor.float() + size * noise).to(tensor.dtype)
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    return out


def changed(folder: Path, file: str = "config.json", **values) -> Path:
    """The same folder with other values in a JSON file."""
    path = folder / file
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | values))
    return folder


def task(place: Path) -> Path:
    """Four rows with two labels, as a task folder."""
    place.mkdir(parents=True, exist_ok=True)
    for name, times in (("train", 3), ("validation", 2), ("test", 1)):
        (place / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS * times))
    return place


def tuned(base: Path, data: Path, out: Path, tuner="full", **more) -> Path:
    """A pair of that base, tuned for a few steps."""
    from pairtune.training.run import tune

    training = {"lr": 0.01, "max_steps": 4, "eval_every": 4, "log_every": 2}
    tune({"base": str(base), "data": str(data), "tuner": tuner, "training": training, "out": str(out), **more})
    return out


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")
