"""Smaller learning rates further from the output: lr(depth) = lr · factor^(distance from the top).

Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification" (discriminative fine-tuning),
arXiv 1801.06146; in the geometric form of Clark et al., "ELECTRA", arXiv 2003.10555. Lower layers hold what is general
and should move less. With L blocks: head and everything after the blocks 1, block i factor^(L − i), embeddings
factor^(L + 1), i from 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pairtune import method
from pairtune.constraints import Constraint, ParameterGroup
from pairtune.constraints.places import Places

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair


class LayerDecay(Constraint):
    """Learning-rate groups by depth."""

    class Settings(method.Settings):
        factor: float = Field(0.9, gt=0, le=1, description="learning rate of a block relative to the block above it")

    settings: Settings

    def parameter_groups(self, pair: Pair) -> list[ParameterGroup]:
        places = Places(pair)
        top = len(places.blocks) + 1
        by_depth: dict[int, list[str]] = {}
        for name, _ in pair.trainable():
            by_depth.setdefault(places.depth(name), []).append(name)
        return [
            {"names": names, "lr_scale": self.settings.factor ** (top - depth)}
            for depth, names in sorted(by_depth.items())
        ]
