"""Pretrain the zoo's small vision transformer: `python -m pairtune.zoo.pretrain_vit --bank BANK --out DIR`.

It learns to name the emoji, icons, letters and characters of `image_source.py`, and to tell how they look. Goes on
where it was stopped, bit for bit. The folder BANK is what `picture_bank.py` makes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import ViTConfig, ViTModel

from pairtune.zoo import encoder_run
from pairtune.zoo.encoder_aims import count_of
from pairtune.zoo.image_source import SIDE, Pictures
from pairtune.zoo.picture_bank import KINDS


def build(args: argparse.Namespace, kinds: np.ndarray) -> encoder_run.Learner:
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
    vit = ViTModel(config, add_pooling_layer=False)
    vit.set_attn_implementation("eager")  # measured at this size: plain products beat the CPU's fused attention
    with torch.no_grad():
        side = SIDE // args.patch
        vit.embeddings.position_embeddings[0, 1:] = 0.3 * encoder_run.waves(side, side, args.width)
        nn.init.normal_(vit.embeddings.patch_embeddings.projection.weight, std=(3 * args.patch**2) ** -0.5)
    return encoder_run.Learner(vit, 1, kinds, count_of(SIDE, SIDE))


def held_out(model: encoder_run.Learner, source: Pictures) -> dict[str, float]:
    """Accuracy by kind on drawings that were held out."""
    return encoder_run.held_out(model, encoder_run.items_of(source, held=True), KINDS)


def main(argv: list[str] | None = None) -> dict:
    options = encoder_run.parser(__doc__, width=192, layers=6, heads=3, patch=8, **{"total-items": 250_000})
    options.add_argument("--bank", type=Path, required=True, help="the folder that picture_bank made")
    args = options.parse_args(argv)
    source = Pictures(args.bank, args.seed)
    learner, items = build(args, source.kinds).train(), encoder_run.items_of(source)
    return encoder_run.train(learner, items, {"bank": source.about}, args)


if __name__ == "__main__":
    main()
