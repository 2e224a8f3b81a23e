"""The model cards of the zoo's encoders of images and sound, filled with the numbers of the run that they describe."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from pairtune.zoo.picture_packs import Pack, listed

_TEMPLATE = """\
---
license: {licence}
library_name: transformers
pipeline_tag: {tag}
tags: [{kind}, tiny, pairtune]
---

# tiny-{kind}

{what} of {parameters:,} parameters that ships inside pairtune (`--base zoo:tiny-{kind}`), so that tuning,
comparing, scoring and merging can be tried on {things} without a network. It is a *base* to be tuned: it has no head.

- {layers} layers, width {width}, {heads} heads, {input}; weights in bfloat16.

## Training

- {items:,} items seen, {steps:,} steps, {hours:.1f} hours{hardware}.{when}
- From the class token, one linear map names the item's class among those of its kind (cross-entropy), and another tells
  the item's coarse picture and its histograms of oriented gradients (mean squared error, after arXiv 2112.09133).
  Neither map is here. Muon for the matrices of the layers, AdamW (betas 0.9, 0.95) for the rest, weight decay 0.05,
  gradients clipped at norm 1, bfloat16 products; warm-up, constant rate 0.006, then down to zero.
- Scripts of `pairtune.zoo`, run as

```
{commands}
```

## Data

{data}

## Held out

Drawings or sounds that training never saw, named by the linear map among the classes of their kind, by exactly these
weights, computed in float32.

| items | named rightly |
|---|---|
{held}
{probes}
## Limits

{limits}
"""

_PROBES = """
## Probes

Accuracy of a logistic regression on features that nobody tuned (`python -m pairtune.zoo.probe_encoder`): learnt from
500 items of the training part, judged on the others of 600 and on up to 1000 of the test part. None of these sets was
used for training.

| set | this encoder | the same, random weights | the input itself |
|---|---|---|---|
{rows}
"""

_ABOUT: dict[str, dict[str, str]] = {
    "vit": {
        "licence": "apache-2.0",
        "tag": "image-feature-extraction",
        "what": "A vision transformer",
        "things": "images",
        "input": "32 x 32 colour images in patches of {patch} x {patch}",
        "limits": """\
- It has seen drawings, icons and letters, never a photograph: on photographs its features are little more than edges
  and colours.
- It knows digits and letters from typefaces: a digit is nothing new to it.
- Small, and trained for less than an hour of one core.""",
    },
    "ast": {
        "licence": "apache-2.0",
        "tag": "audio-classification",
        "what": "A spectrogram transformer (AST)",
        "things": "sound",
        "input": "0.96 s of sound at 16 kHz as 96 frames of 64 mel bins, in patches of {patch} x {patch}",
        "data": """\
Made by rule, anew for every item: syllables (a hiss, a burst or nothing before a buzzing tone through resonances that
move from one of eight vowels to another), tones (six courses of pitch, four waves) and noises (four colours, seven
courses of loudness), over a noise. Nothing was recorded.""",
        "limits": """\
- Sounds made by rule are all that it knows.
- Sound beyond 0.96 s is cut off.
- Small, and trained for less than an hour of one core.""",
    },
}


def pictures(kinds: dict[str, dict[str, int]]) -> str:
    """What a vision transformer learnt from, and whose drawings these are.

    Args:
        kinds: classes, drawings and held-out drawings of each kind, as the bank has counted them.
    """
    rows = [f"| {kind} | {row['classes']:,} | {row['drawings']:,} | {row['held']:,} |" for kind, row in kinds.items()]
    said = []
    by_licence = sorted(listed(), key=_kind_and_licence)
    for (kind, licence), packs in groupby(by_licence, _kind_and_licence):
        names = "; ".join(f"{pack.origin} (`{pack.package}` {pack.version})" for pack in packs)
        said.append(f"- {kind}, {licence}: {names}.")
    return "\n".join(
        [
            "| kind | classes | drawings | of them held out |",
            "|---|---|---|---|",
            *rows,
            "",
            "Every item is a drawing turned, stretched, bent, moved and shaded anew, half of them in colour on a",
            "ground of two colours, half grey on black. The drawings themselves are not here. They are:",
            "",
            *said,
            "- omniglot, MIT: the two small background sets (Lake, Salakhutdinov and Tenenbaum, Science 2015).",
            "",
            "No photograph, and none of MNIST, Fashion-MNIST and CIFAR-10, was used.",
        ]
    )


def _kind_and_licence(pack: Pack) -> tuple[str, str]:
    return pack.kind, pack.licence


def card(
    kind: str,
    state: dict[str, Any],
    held: dict[str, float],
    probes: dict[str, dict[str, float]],
    parameters: int,
    commands: str,
    when: str,
    hardware: str,
) -> str:
    """The card's text.

    Args:
        held: accuracy on held-out items by their kind. probes: accuracy by set and features; none: left out.
        commands, when, hardware: as they are to be read; empty: left out.
    """
    about, config = dict(_ABOUT[kind]), state["config"]
    if kind == "vit":
        about["data"] = pictures(state["bank"]["kinds"])
    rows = [f"| {name} | {' | '.join(f'{value:.1%}' for value in row.values())} |" for name, row in probes.items()]
    return _TEMPLATE.format(
        **{**about, "input": about["input"].format(patch=config["patch_size"])},
        kind=kind,
        parameters=parameters,
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        items=state["items"],
        commands=commands.strip(),
        steps=state["step"],
        hours=state["seconds"] / 3600,
        when=f" Trained on {when}." if when else "",
        hardware=f", {hardware}" if hardware else "",
        held="\n".join(f"| {name} | {value:.1%} |" for name, value in held.items()),
        probes=_PROBES.format(rows="\n".join(rows)) if rows else "",
    )
