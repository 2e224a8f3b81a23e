"""Pretrain the zoo's small spectrogram transformer: `python -m pairtune.zoo.pretrain_ast --data DATA --out DIR`.

It learns to name the sounds of `sound_source.py`. Goes on where it was stopped, bit for bit.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ASTConfig, ASTForAudioClassification

from pairtune.zoo import encoder_run
from pairtune.zoo.sound_source import BINS, FRAMES, Sounds


def build(args: argparse.Namespace, classes: int) -> ASTForAudioClassification:
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
    config.num_labels = classes
    model = ASTForAudioClassification(config)
    model.set_attn_implementation("eager")  # measured at this size: plain products beat the CPU's fused attention
    return model


def logits(model: ASTForAudioClassification, heard: Tensor, kept: Tensor | None) -> Tensor:
    """[n, classes]; of the patches only those at `kept` [n, k] go through the blocks, beside the two class tokens."""
    ast = model.audio_spectrogram_transformer
    hidden = encoder_run.through(ast.layers, ast.embeddings(heard), 2, kept)
    return model.classifier(ast.layernorm(hidden)[:, :2].mean(1))


def main(argv: list[str] | None = None) -> dict:
    options = encoder_run.parser(__doc__, width=192, layers=6, heads=3, patch=8, keep=0.33, **{"total-items": 280_000})
    args = options.parse_args(argv)
    source = Sounds(args.data, args.seed)
    model = build(args, source.classes).train()
    count = (FRAMES // args.patch) * (BINS // args.patch)
    about = {"config": model.config.to_dict(), "share": args.keep, "mean": source.mean, "std": source.std}
    return encoder_run.train(
        model, encoder_run.naming(items_of(source), partial(logits, model), count, args), about, args
    )


def items_of(source: Sounds, held: bool = False) -> encoder_run.Items:
    """Spectrograms by number; `held`: those of the fold that training never hears."""

    def items(first: int, count: int) -> tuple[Tensor, np.ndarray]:
        heard, labels = source.batch(first, count, held)
        return torch.from_numpy(heard), labels

    return items


def held_out(model: nn.Module, source: Sounds) -> dict[str, float]:
    """Accuracy on pieces of the fold that was held out, and on voices drawn anew."""
    return encoder_run.held_out(model, items_of(source, True), len(source.names), ("pieces", "voices"))


if __name__ == "__main__":
    main()
