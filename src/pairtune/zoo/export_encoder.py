"""Make a model folder of a run: `python -m pairtune.zoo.export_encoder vit --data DATA --run RUN --out DIR`.

The newest checkpoint's backbone in bfloat16, without the head that named the pretraining's classes, what prepares its
inputs, and a card with what was seen and how well held-out items are named by exactly these weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from pairtune.zoo import encoder_card, lm_checkpoint, pretrain_ast, pretrain_vit
from pairtune.zoo.exported import replacing
from pairtune.zoo.image_source import SIDE, Pictures
from pairtune.zoo.sound_source import BINS, FRAMES, RATE, Sounds


def opened(kind: str, data: Path, run: Path) -> tuple[Any, Any, dict[str, Any], dict[str, float]]:
    """(backbone in bfloat16, processor, state, accuracy on held-out items) of a run's newest checkpoint."""
    folder = lm_checkpoint.latest(run)
    if folder is None:
        raise SystemExit(f"no checkpoint in {run}")
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    about = state["config"]
    shape = {"width": about["hidden_size"], "layers": about["num_hidden_layers"], "heads": about["num_attention_heads"]}
    args = argparse.Namespace(seed=0, patch=about["patch_size"], **shape)
    if kind == "vit":
        from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

        source: Any = Pictures(data, args.seed)
        model: Any = pretrain_vit.build(args, source.classes)
        processor: Any = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
        measure, backbone = pretrain_vit.held_out, model.vit
    else:
        from transformers import ASTFeatureExtractor

        source = Sounds(data, args.seed)
        model = pretrain_ast.build(args, source.classes)
        sizes: Any = {"sampling_rate": RATE, "num_mel_bins": BINS, "max_length": FRAMES}
        processor = ASTFeatureExtractor(**sizes, mean=state["mean"], std=state["std"])
        measure, backbone = pretrain_ast.held_out, model.audio_spectrogram_transformer
    lm_checkpoint.load_weights(folder, model)
    model.bfloat16()
    found = measure(model.float(), source)  # of the rounded weights, computed in float32
    backbone.config.num_labels = 2  # as it is where nobody asked for a head
    if kind == "vit":
        backbone.pooler = None
    return backbone.bfloat16(), processor, state, found


def export(kind: str, data: Path, run: Path, out: Path, when: str, hardware: str) -> dict[str, float]:
    """Write the model folder, whole or not at all; returns the held-out accuracies."""
    backbone, processor, state, found = opened(kind, data, run)
    with replacing(out) as part:
        backbone.save_pretrained(part)
        processor.save_pretrained(part)
        count = sum(parameter.numel() for parameter in backbone.parameters())
        text = encoder_card.card(kind, state, found, count, when, hardware)
        (part / "README.md").write_text(text, encoding="utf-8")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["vit", "ast"])
    for name in ("data", "run", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--date", default="", help="for the card")
    parser.add_argument("--hardware", default="", help="for the card")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name, value in export(args.kind, args.data, args.run, args.out, args.date, args.hardware).items():
        print(f"{name:12} {value:.1%} of held-out items named rightly")


if __name__ == "__main__":
    main()
