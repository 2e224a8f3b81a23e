"""Pretrain the zoo's small vision transformer: `python -m pairtune.zoo.pretrain_vit --data DATA --out DIR`.

It learns to name the characters and fractals of `image_source.py`, seeing a random third of each picture's patches,
which saves most of the work (all of them in the last tenth of the run). Goes on where it was stopped, bit for bit.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification

from pairtune.zoo import encoder_run
from pairtune.zoo.image_source import SIDE, Pictures

MEAN = STD = 0.5


def build(args: argparse.Namespace, classes: int) -> ViTForImageClassification:
    torch.manual_seed(args.seed)
    config = ViTConfig(
        hidden_size=args.width,
        intermediate_size=4 * args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        image_size=SIDE,
        patch_size=args.patch,
        layer_norm_eps=1e-6,
    )
    config.num_labels = classes
    model = ViTForImageClassification(config)
    model.set_attn_implementation("eager")  # measured at this size: plain products beat the CPU's fused attention
    return model


def pixels(pictures: np.ndarray) -> Tensor:
    """[n, S, S, 3] uint8 as the model takes them, [n, 3, S, S]."""
    scaled = (pictures.astype(np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))


def logits(model: ViTForImageClassification, seen: Tensor, kept: Tensor | None) -> Tensor:
    """[n, classes]; of the patches only those at `kept` [n, k] go through the blocks."""
    vit = model.vit
    hidden = vit.embeddings(seen)
    if kept is not None:
        chosen = hidden[:, 1:].gather(1, kept[..., None].expand(-1, -1, hidden.shape[-1]))
        hidden = torch.cat([hidden[:, :1], chosen], dim=1)
    for layer in vit.layers:
        hidden = layer(hidden)
    return model.classifier(vit.layernorm(hidden)[:, 0])


def main(argv: list[str] | None = None) -> dict:
    options = encoder_run.parser(__doc__, width=192, layers=6, heads=3, patch=4, keep=0.33, **{"total-items": 560_000})
    args = options.parse_args(argv)
    source = Pictures(args.data, args.seed)
    model = build(args, source.classes).train()
    count = (SIDE // args.patch) ** 2

    def loss_of(first: int, items: int) -> tuple[Tensor, dict[str, float]]:
        pictures, labels = source.batch(first, items)
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + first)
        every = torch.rand(items, count, generator=generator).argsort(1)
        last = first >= 0.9 * args.total_items
        kept = None if last else every[:, : max(1, int(args.keep * count))]
        with encoder_run.autocast():
            found = logits(model, pixels(pictures), kept).float()
        wanted = torch.from_numpy(labels)
        loss = F.cross_entropy(found, wanted, label_smoothing=0.1)
        right = (found.argmax(-1) == wanted).float().mean().item()
        return loss, {"loss": loss.item(), "accuracy": right}

    return encoder_run.train(model, loss_of, {"config": model.config.to_dict(), "share": args.keep}, args)


@torch.inference_mode()
def held_out(model: nn.Module, source: Pictures, count: int = 2048) -> dict[str, float]:
    """Accuracy on characters by drawings that were held out, and on fractals drawn anew."""
    model.eval()
    right: dict[str, list[bool]] = {"characters": [], "fractals": []}
    for first in range(0, count, 256):
        pictures, labels = source.batch(first, 256, held=True)
        found = model(pixels(pictures)).logits.argmax(-1).numpy()
        for label, answer in zip(labels, found, strict=True):
            right["characters" if label < source.characters else "fractals"].append(bool(label == answer))
    return {name: float(np.mean(values)) for name, values in right.items()}


if __name__ == "__main__":
    main()
