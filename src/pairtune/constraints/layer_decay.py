"""Smaller learning rates further from the output: lr(depth) = lr · factor^(distance from the top).

Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification" (discriminative fine-tuning),
arXiv 1801.06146; in the geometric form of Clark et al., "ELECTRA", arXiv 2003.10555; found the most effective remedy
for large models and ELECTRA by Tinn et al., arXiv 2112.07869. Lower layers hold what is general and should move less.
With L blocks, l = 1 the lowest:

    lr(block l) = lr · factor^(top + L − l)      lr(embeddings) = lr · factor^(top + L)
    lr(pooler, head, whatever else follows the blocks) = lr · head

Factor 1 and head 1 are plain tuning. Code bases differ by a step or two in what the topmost block gets, and everything
below it with it: `top` is 0 in the papers' form, 1 where the head counts as a layer of its own (timm), 2 in ELECTRA's
code (both from memory, not re-read).
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
    """Learning-rate groups by depth; every trainable parameter is in exactly one, a tied one at its lowest place."""

    class Settings(method.Settings):
        factor: float = Field(0.9, gt=0, le=1, description="learning rate of a block relative to the block above it")
        top: int = Field(0, ge=0, description="steps of decay that the topmost block has already")
        head: float = Field(1.0, gt=0, description="learning rate of what follows the blocks, relative to the run's")

    settings: Settings

    def parameter_groups(self, pair: Pair) -> list[ParameterGroup]:
        settings, places = self.settings, Places(pair)
        after = len(places.blocks) + 1
        by_depth: dict[int, list[str]] = {}
        for name, _ in pair.trainable():
            by_depth.setdefault(places.depth(name), []).append(name)
        return [
            {
                "names": names,
                "lr_scale": settings.head if depth == after else settings.factor ** (settings.top + after - 1 - depth),
            }
            for depth, names in sorted(by_depth.items())
        ]
