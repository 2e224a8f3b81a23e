"""The pool: a generalist, and two specialists that go on from it in a domain of their own.

A part of a specialist's scenes are the generalist's (`replay`): without any it forgets nearly all the rest, which the
paper's specialists, tuned on many kinds of images, do not.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pairtune.errors import NonFiniteError
from pairtune.pair.files import open_safetensors
from pairtune.pair.tensorfile import write_safetensors
from pairtune.reproductions.masks.net import Segmenter, new
from pairtune.reproductions.masks.scenes import Scenes, Studio

log = logging.getLogger("pairtune")
GENERALIST = "generalist"
DOMAINS = {GENERALIST: ("shapes", "fashion"), "cells": ("cells",), "digits": ("digits",)}
POOL = tuple(DOMAINS)
BATCH = 32
Weights = dict[str, Tensor]


def pool(folder: Path, studio: Studio, seed: int, settings: Mapping[str, Any]) -> dict[str, Weights]:
    """The three models of a seed by name; they are trained once and kept in the folder."""
    found: dict[str, Weights] = {}
    for name, tasks in DOMAINS.items():
        path = folder / f"{name}-{seed}.safetensors"
        if not path.exists():
            general = name == GENERALIST
            size = settings["train" if general else "specialist_train"]
            again = 0 if general else int(settings["replay"] * size)
            counts = {task: (size - again) // len(tasks) for task in tasks}
            counts |= {task: again // len(DOMAINS[GENERALIST]) for task in DOMAINS[GENERALIST] if again}
            data = Scenes.joined([studio.scenes(task, "train", count, seed) for task, count in counts.items()])
            steps, rate = (settings[key if general else f"specialist_{key}"] for key in ("steps", "rate"))
            weights = train(found.get(GENERALIST), data, steps, rate, seed)
            folder.mkdir(parents=True, exist_ok=True)
            write_safetensors(path, weights)
            log.info("seed %d: %s trained on %d scenes", seed, name, len(data))
        stored = open_safetensors(path)
        found[name] = {key: stored.tensor(key).clone() for key in stored}
    return found


def train(start: Weights | None, data: Scenes, steps: int, rate: float, seed: int) -> Weights:
    """Weights after so many steps of AdamW from `start` (None: at random), by cross-entropy plus 1 − soft Dice."""
    model: Segmenter = new(seed)
    if start is not None:
        model.load_state_dict(start)
    generator = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: _rate(done, steps))
    for _ in range(steps):
        rows = generator.choice(len(data), min(BATCH, len(data)), replace=False)
        batch = data.take(torch.as_tensor(rows))
        loss = _loss(model(batch.images, batch.boxes), batch.masks.float())
        if not loss.isfinite():
            raise NonFiniteError(f"the segmenter's loss became {loss.item()}")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _loss(logits: Tensor, masks: Tensor) -> Tensor:
    found = logits.sigmoid()
    both, all_of = (found * masks).sum((1, 2)), found.sum((1, 2)) + masks.sum((1, 2))
    return binary_cross_entropy_with_logits(logits, masks) + (1 - (2 * both + 1) / (all_of + 1)).mean()


def _rate(done: int, steps: int) -> float:
    """Warm-up over a twentieth of the steps, then half a cosine."""
    return min(1.0, (done + 1) / max(steps / 20, 1)) * 0.5 * (1 + math.cos(math.pi * done / steps))
