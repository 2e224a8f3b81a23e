"""The model cards of the zoo's encoders of images and sound, filled with the numbers of the run that they describe."""

from __future__ import annotations

from typing import Any

_TEMPLATE = """\
---
license: {licence}
library_name: transformers
pipeline_tag: {tag}
tags: [{kind}, tiny, pairtune]
---

# tiny-{kind}

{what} of {parameters:,} parameters that ships inside pairtune (`--base zoo:tiny-{kind}`), so that tuning, comparing,
scoring and merging can be tried on {things} without a network. It is a *base* to be tuned: it has no head.

- {layers} layers, width {width}, {heads} heads, {input}; weights in bfloat16.

## Training

- {items:,} items seen, {steps:,} steps of 64, {hours:.1f} hours{hardware}{when}.
- Naming the items' classes (cross-entropy with label smoothing 0.1) by a linear head, which is not here. A random third
  of the patches is shown, all of them in the last tenth of a finished run. AdamW (betas 0.9, 0.95; weight decay 0.05),
  gradients clipped at norm 1, bfloat16 products; warm-up, constant rate 0.001, then down to zero.
- Scripts: `pairtune.zoo.pretrain_{kind}` with its defaults, `pairtune.zoo.export_encoder`.

## Data

{data}

## Held out

| items | named rightly | by chance |
|---|---|---|
{held}

Of exactly these weights, computed in float32.

## Limits

{limits}
"""

_ABOUT: dict[str, dict[str, Any]] = {
    "vit": {
        "licence": "apache-2.0",
        "tag": "image-feature-extraction",
        "what": "A vision transformer",
        "things": "images",
        "input": "32 x 32 colour images in patches of 4 x 4",
        "data": """\
- Omniglot's two small background sets (MIT; Lake, Salakhutdinov and Tenenbaum, Science 2015): 292 characters, 17 of
  the 20 drawings of each, turned, scaled, moved and coloured anew whenever one is seen.
- Fractals made by rule (64 systems of affine maps x 4 hues), after the idea of "Pre-training without Natural Images"
  (Kataoka et al., arXiv 2101.08515), in a way of our own.

Half of the items are of either kind. No photograph and no digit set was used.""",
        "limits": """\
- It has seen strokes, dust-like figures and plain grounds, never a photograph: on photographs its features are little
  more than edges and colours.
- Small, and trained for no more than a few hours of one core.""",
        "chance": {"characters": 1 / 548, "fractals": 1 / 548},
    },
    "ast": {
        "licence": "cc-by-3.0",
        "tag": "audio-classification",
        "what": "A spectrogram transformer (AST)",
        "things": "sound",
        "input": "0.96 s of sound at 16 kHz as 96 frames of 64 mel bins, in patches of 8 x 8",
        "data": """\
- ESC-10 (CC BY 3.0; Piczak, ACM MM 2015; clips from freesound.org): folds 1 to 4, windows of 0.96 s.
- Voices made by rule: a buzzing tone through resonances that move from one of eight vowels to another.

Half of the items are of either kind. No recording of speech was used.""",
        "limits": """\
- Ten kinds of environmental sound and artificial vowels are all that it knows.
- Sound beyond 0.96 s is cut off.
- Small, and trained for no more than a few hours of one core.""",
        "chance": {"pieces": 1 / 74, "voices": 1 / 74},
    },
}


def card(kind: str, state: dict[str, Any], held: dict[str, float], parameters: int, when: str, hardware: str) -> str:
    """The card's text.

    Args:
        held: accuracy on held-out items by their kind. when, hardware: as they are to be read; empty: left out.
    """
    about, config = dict(_ABOUT[kind]), state["config"]
    chance = about.pop("chance")
    rows = [f"| {name} | {value:.1%} | {chance[name]:.1%} |" for name, value in held.items()]
    return _TEMPLATE.format(
        kind=kind,
        parameters=parameters,
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        items=state["items"],
        steps=state["step"],
        hours=state["seconds"] / 3600,
        when=f", trained on {when}" if when else "",
        hardware=f", {hardware}" if hardware else "",
        held="\n".join(rows),
        **about,
    )
