"""Pretrain the zoo's small vision transformer: `python -m pairtune.zoo.pretrain_vit --data DATA --out DIR`.

It learns to name the characters and fractals of `image_source.py`. Goes on where it was stopped, bit for bit.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
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
    hidden = encoder_run.through(vit.layers, vit.embeddings(seen), 1, kept)
    return model.classifier(vit.layernorm(hidden)[:, 0])


def main(argv: list[str] | None = None) -> dict:
    options = encoder_run.parser(__doc__, width=192, layers=6, heads=3, patch=4, keep=0.33, **{"total-items": 560_000})
    args = options.parse_args(argv)
    source = Pictures(args.data, args.seed)
    model = build(args, source.classes).train()
    loss_of = encoder_run.naming(items_of(source), partial(logits, model), (SIDE // args.patch) ** 2, args)
    return encoder_run.train(model, loss_of, {"config": model.config.to_dict(), "share": args.keep}, args)


def items_of(source: Pictures, held: bool = False) -> encoder_run.Items:
    """Pictures by number, as the model takes them; `held`: those by drawings that training never sees."""

    def items(first: int, count: int) -> tuple[Tensor, np.ndarray]:
        pictures, labels = source.batch(first, count, held)
        return pixels(pictures), labels

    return items


def held_out(model: nn.Module, source: Pictures) -> dict[str, float]:
    """Accuracy on characters by drawings that were held out, and on fractals drawn anew."""
    return encoder_run.held_out(model, items_of(source, True), source.characters, ("characters", "fractals"))


if __name__ == "__main__":
    main()
