"""Make a model folder of a run: `python -m pairtune.zoo.export_encoder vit --bank BANK --run RUN --out DIR`.

The newest checkpoint's encoder in bfloat16, without what taught it, what prepares its inputs, and a card with what was
seen and how well held-out items are named by exactly these weights. With `--data` the card also has the probes by which
the zoo's bases are judged (`probe_encoder.py`); a base that they find unfit is refused.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from pairtune.zoo import encoder_card, lm_checkpoint, pretrain_ast, pretrain_vit, probe_encoder
from pairtune.zoo.exported import replacing
from pairtune.zoo.image_source import SIDE, Pictures
from pairtune.zoo.sound_source import BINS, FRAMES, RATE, Sounds


def opened(kind: str, run: Path, bank: Path | None) -> tuple[Any, Any, dict[str, Any], dict[str, float]]:
    """(encoder in bfloat16, processor, state, accuracy on held-out items) of a run's newest checkpoint."""
    folder = lm_checkpoint.latest(run)
    if folder is None:
        raise SystemExit(f"no checkpoint in {run}")
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    about = state["config"]
    shape = {"width": about["hidden_size"], "layers": about["num_hidden_layers"], "heads": about["num_attention_heads"]}
    args = argparse.Namespace(seed=0, patch=about["patch_size"], **shape)
    if kind == "vit":
        from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

        items: Any = Pictures(bank, args.seed)  # type: ignore[arg-type]
        model, measure = pretrain_vit.build(args, items.kinds), pretrain_vit.held_out
        processor: Any = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    else:
        from transformers import ASTFeatureExtractor

        items = Sounds(args.seed)
        model, measure = pretrain_ast.build(args, items.kinds), pretrain_ast.held_out
        sizes: Any = {"sampling_rate": RATE, "num_mel_bins": BINS, "max_length": FRAMES}
        processor = ASTFeatureExtractor(**sizes, mean=state["mean"], std=state["std"])
    lm_checkpoint.load_weights(folder, model)
    model.bfloat16()
    found = measure(model.float(), items)  # of the rounded weights, computed in float32
    return model.encoder.bfloat16(), processor, state, found


def export(
    kind: str, run: Path, out: Path, bank: Path | None, data: Path | None, commands: str, when: str, hardware: str
) -> dict[str, float]:
    """Write the model folder, whole or not at all; returns the held-out accuracies.

    Args:
        bank: for pictures, the drawings that were learnt from. data: where the probed sets are; None: no probes.
        commands, when, hardware: for the card.
    """
    encoder, processor, state, found = opened(kind, run, bank)
    with replacing(out) as part:
        encoder.save_pretrained(part)
        processor.save_pretrained(part)
        probes = probe_encoder.table(part, data) if data else {}
        if failed := probe_encoder.unfit(probes):
            raise SystemExit(f"not fit to be a base: a probe on {' and '.join(failed)} is no better than without it")
        count = sum(parameter.numel() for parameter in encoder.parameters())
        text = encoder_card.card(kind, state, found, probes, count, commands, when, hardware)
        (part / "README.md").write_text(text, encoding="utf-8")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["vit", "ast"])
    for name in ("run", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--bank", type=Path, help="for vit: the folder that picture_bank made")
    parser.add_argument("--data", type=Path, help="the data folder (PAIRTUNE_DATA), for the probes")
    parser.add_argument("--commands", type=Path, help="text file with the commands of the run, for the card")
    parser.add_argument("--date", default="", help="for the card")
    parser.add_argument("--hardware", default="", help="for the card")
    args = parser.parse_args()
    torch.set_num_threads(1)
    commands = args.commands.read_text(encoding="utf-8") if args.commands else ""
    found = export(args.kind, args.run, args.out, args.bank, args.data, commands, args.date, args.hardware)
    for name, value in found.items():
        print(f"{name:12} {value:.1%} of held-out items named rightly")


if __name__ == "__main__":
    main()
