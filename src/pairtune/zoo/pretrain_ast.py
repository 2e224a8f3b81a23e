"""Pretrain the zoo's small spectrogram transformer: `python -m pairtune.zoo.pretrain_ast --out DIR`.

It learns to name the sounds of `sound_source.py`, and to tell how they look. Goes on where it was stopped, bit for bit.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import nn
from transformers import ASTConfig, ASTModel

from pairtune.zoo import encoder_run
from pairtune.zoo.encoder_aims import count_of
from pairtune.zoo.sound_source import BINS, FRAMES, KINDS, Sounds


def build(args: argparse.Namespace, kinds: np.ndarray) -> encoder_run.Learner:
    torch.manual_seed(args.seed)
    config = ASTConfig(
        hidden_size=args.width,
        intermediate_size=4 * args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        patch_size=args.patch,
        frequency_stride=args.patch,
        time_stride=args.patch,
        max_length=FRAMES,
        num_mel_bins=BINS,
        layer_norm_eps=1e-6,
    )
    ast = ASTModel(config)
    ast.set_attn_implementation("eager")  # measured at this size: plain products beat the CPU's fused attention
    with torch.no_grad():
        places = encoder_run.waves(BINS // args.patch, FRAMES // args.patch, args.width)
        ast.embeddings.position_embeddings[0, 2:] = 0.3 * places
        nn.init.normal_(ast.embeddings.patch_embeddings.projection.weight, std=1 / args.patch)
    return encoder_run.Learner(ast, 2, kinds, count_of(FRAMES, BINS))


def held_out(model: encoder_run.Learner, source: Sounds) -> dict[str, float]:
    """Accuracy by kind on sounds that are made anew."""
    return encoder_run.held_out(model, encoder_run.items_of(source, held=True), KINDS)


def main(argv: list[str] | None = None) -> dict:
    options = encoder_run.parser(__doc__, width=192, layers=6, heads=3, patch=16, **{"total-items": 400_000})
    args = options.parse_args(argv)
    source = Sounds(args.seed)
    about = {"mean": source.mean, "std": source.std}
    return encoder_run.train(build(args, source.kinds).train(), encoder_run.items_of(source), about, args)


if __name__ == "__main__":
    main()
