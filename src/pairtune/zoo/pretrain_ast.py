"""Pretrain the zoo's small spectrogram transformer: `python -m pairtune.zoo.pretrain_ast --data DATA --out DIR`.

It learns to name the sounds of `sound_source.py`, a random third of each spectrogram's patches being heard, which saves
most of the work (all of them in the last tenth of the run). Goes on where it was stopped, bit for bit.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
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
    hidden = ast.embeddings(heard)
    if kept is not None:
        chosen = hidden[:, 2:].gather(1, kept[..., None].expand(-1, -1, hidden.shape[-1]))
        hidden = torch.cat([hidden[:, :2], chosen], dim=1)
    for layer in ast.layers:
        hidden = layer(hidden)
    return model.classifier(ast.layernorm(hidden)[:, :2].mean(1))


def main(argv: list[str] | None = None) -> dict:
    options = encoder_run.parser(__doc__, width=192, layers=6, heads=3, patch=8, keep=0.33, **{"total-items": 280_000})
    args = options.parse_args(argv)
    source = Sounds(args.data, args.seed)
    model = build(args, source.classes).train()
    count = (FRAMES // args.patch) * (BINS // args.patch)

    def loss_of(first: int, items: int) -> tuple[Tensor, dict[str, float]]:
        heard, labels = source.batch(first, items)
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + first)
        every = torch.rand(items, count, generator=generator).argsort(1)
        last = first >= 0.9 * args.total_items
        kept = None if last else every[:, : max(1, int(args.keep * count))]
        with encoder_run.autocast():
            found = logits(model, torch.from_numpy(heard), kept).float()
        wanted = torch.from_numpy(labels)
        loss = F.cross_entropy(found, wanted, label_smoothing=0.1)
        right = (found.argmax(-1) == wanted).float().mean().item()
        return loss, {"loss": loss.item(), "accuracy": right}

    about = {"config": model.config.to_dict(), "share": args.keep, "mean": source.mean, "std": source.std}
    return encoder_run.train(model, loss_of, about, args)


@torch.inference_mode()
def held_out(model: nn.Module, source: Sounds, count: int = 2048) -> dict[str, float]:
    """Accuracy on pieces of the fold that was held out, and on voices drawn anew."""
    model.eval()
    right: dict[str, list[bool]] = {"pieces": [], "voices": []}
    for first in range(0, count, 256):
        heard, labels = source.batch(first, 256, held=True)
        found = model(torch.from_numpy(heard)).logits.argmax(-1).numpy()
        for label, answer in zip(labels, found, strict=True):
            right["pieces" if label < len(source.names) else "voices"].append(bool(label == answer))
    return {name: float(np.mean(values)) for name, values in right.items()}


if __name__ == "__main__":
    main()
