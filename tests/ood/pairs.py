"""Small pairs with changed weights, and texts for them."""

from __future__ import annotations

import torch
from torch import nn

from pairtune.data.split import Split
from pairtune.data.task import Task
from pairtune.pair.base import Base
from pairtune.pair.installed import SwappedParameters
from pairtune.pair.pair import Layer, Pair

LABELS = ["cat", "man", "money"]
ROWS = [
    ("the cat sat on the mat", "cat"),
    ("a dog ran in the house", "cat"),
    ("the cat ran", "cat"),
    ("the old man by the river", "man"),
    ("a good woman and a child", "man"),
    ("who is the man ?", "man"),
    ("open the account", "money"),
    ("the card is in the account", "money"),
    ("no money", "money"),
]
FAR = ["please thanks printer screen", "x y z 9 8 7", "email phone email", "night river tree book , ."]
TEXTS = ["the cat sat on the mat", "a dog", "yes", "", "who is the old man by the river ?", "please open the account"]


def changed(base: Base, scale: float = 0.05, seed: int = 1) -> Pair:
    """The base with every parameter moved a little."""
    torch.manual_seed(seed)
    variants = {n: nn.Parameter(p + scale * torch.randn_like(p)) for n, p in base.parameters.items()}
    return Pair(base, [Layer(SwappedParameters(base.model, variants), lambda: None)])  # type: ignore


def causal(folder, **options) -> Pair:
    return changed(Base.load(folder), **options)


def classifier(folder, **options) -> Pair:
    return changed(Base.load(folder, task="classification", labels=LABELS), **options)


def task(kind: str = "classification") -> Task:
    """Train, validation and test of the same rows, and one OOD split."""
    rows = [{"text": text, "label": label} for text, label in ROWS]
    splits = {name: Split.of(rows, name) for name in ("train", "validation", "test")}
    splits["ood/far"] = Split.of([{"text": text} for text in FAR])
    return Task("cat", kind, ("text",), "label" if kind == "classification" else None, LABELS, splits)  # type: ignore
