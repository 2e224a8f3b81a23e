"""A small vision transformer: pretrained on distorted digits, clothes and characters, tuned on clean digits.

The pretrained model stands for CLIP: it knows the distortions, and its head for the digits (ten rows of its head for
all classes) exists before tuning, so that both ends of the path have one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pairtune.analysis.sharpness import normalised
from pairtune.pair.files import open_safetensors, write_safetensors
from pairtune.pair.pair import evaluating
from pairtune.reproductions.sharpness import images
from pairtune.reproductions.sharpness.images import CHARACTERS, CLOTHES, DIGITS, Set

log = logging.getLogger("pairtune")
BATCH, EVALUATED = 64, 256
Batch = tuple[Tensor, Tensor]


def make(classes: int, settings: Mapping[str, Any]) -> nn.Module:
    """An untrained model: 28 × 28 pixels in 16 patches, no dropout."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=28,
        patch_size=7,
        num_channels=1,
        hidden_size=settings["width"],
        intermediate_size=4 * settings["width"],
        num_hidden_layers=settings["blocks"],
        num_attention_heads=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config.num_labels = classes
    return ViTForImageClassification(config)


def pretrained(folder: Path, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """The base's tensors for the ten digits; trained where they are not in the folder yet."""
    file = folder / "base.safetensors"
    if not file.exists():
        torch.manual_seed(0)
        model = make(DIGITS + CLOTHES + CHARACTERS, settings)
        fit(
            model,
            images.pretraining(settings),
            settings["pretraining_lr"],
            settings["pretraining_epochs"],
            0,
            images.drawn,
        )
        write_safetensors(file, {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, {})
    stored = open_safetensors(file)
    tensors = {name: stored.tensor(name).clone() for name in stored}
    return {name: tensor[:DIGITS] if name.startswith("classifier.") else tensor for name, tensor in tensors.items()}


def tuned(
    model: nn.Module, base: Mapping[str, Tensor], lr: float, augment: bool, seed: int, settings: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The tensors of the base tuned on clean digits with one learning rate; `model` holds them afterwards."""
    model.load_state_dict(dict(base))
    torch.manual_seed(seed)
    fit(model, images.tuning(settings, seed), lr, settings["epochs"], seed, images.augmented if augment else None)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def fit(
    model: nn.Module,
    rows: Set,
    lr: float,
    epochs: int,
    seed: int,
    change: Callable[[Tensor, torch.Generator], Tensor] | None,
) -> None:
    """AdamW (weight decay 0.1), batches of 64, a tenth of the steps as warm-up, then a cosine to zero.

    Args:
        change: what is done to the images of a batch, anew in every epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1)
    each = len(rows) // BATCH
    steps = max(epochs * each, 1)
    rise = max(steps // 10, 1)
    model.train()
    for step in range(steps):
        if step % each == 0:
            order = torch.randperm(len(rows), generator=generator)
        batch = rows.take(order[step % each * BATCH :][:BATCH])
        share = min((step + 1) / rise, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = lr * share
        x = batch.x if change is None else change(batch.x, generator)
        loss = F.cross_entropy(logits_of(model, x), batch.y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """[N, C] logits of images [N, 1, 28, 28]."""
    return model(pixel_values=2 * x - 1).logits


@torch.no_grad()
def answers(model: nn.Module, rows: Set) -> dict[str, np.ndarray]:
    """By row: 1 for right and 0 for wrong, and the negative log-likelihood in nats."""
    with evaluating(model):
        outputs = torch.cat([logits_of(model, part) for part in rows.x.split(EVALUATED)])
    log_p = outputs.double().log_softmax(-1)
    right = (log_p.argmax(-1) == rows.y).double().numpy()
    return {"accuracy": right, "nll": -log_p.gather(1, rows.y[:, None])[:, 0].numpy()}


def batches(rows: Set, size: int = 64) -> list[Batch]:
    """Fixed batches for losses."""
    return list(zip(rows.x.split(size), rows.y.split(size), strict=True))


def loss_of(model: nn.Module, normal: bool = False) -> Callable[[Batch], Tensor]:
    """The mean cross-entropy of a batch; `normal`: of logits centred and scaled to length 1."""

    def loss(batch: Batch) -> Tensor:
        outputs = logits_of(model, batch[0])
        return F.cross_entropy(normalised(outputs) if normal else outputs, batch[1])

    return loss
