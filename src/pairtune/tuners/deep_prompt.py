"""Learnt positions beside the input's in every block of a frozen encoder (deep prompt tuning).

Jia et al., "Visual Prompt Tuning", arXiv 2203.12119 (VPT-deep); for spectrograms as compared in arXiv 2312.03694: a few
positions that attention can look at, new ones for every block, steer a frozen model; they see the input, too, but what
they have become is dropped behind the block.

    [h_l, _] = B_l([h_{l−1}, P_l])        h: [B, T, d]; P_l: [p, d], Xavier-uniform

With `every: false` there is one set, which enters with the first block and stays until the last (VPT-shallow). Prompts
stand behind the input instead of between class token and patches: attention has no order of its own here, and positions
keep their numbers. A new head trains whole. Language models have PEFT's (`peft:prompt_tuning`, `peft:prefix_tuning`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pairtune import method
from pairtune.errors import InputError
from pairtune.tuners import Tuner

if TYPE_CHECKING:
    from torch import nn

    from pairtune.pair.base import Base
    from pairtune.pair.installed import Installed


class DeepPrompt(Tuner):
    """Learnt positions in the blocks of an encoder."""

    provides = frozenset({"labels"})
    families = frozenset({"encoder"})
    default_lr = 1e-2
    trainable_share = 0.0026

    class Settings(method.Settings):
        prompts: int = Field(25, ge=1, description="learnt positions a block")
        every: bool = Field(True, description="new ones for every block, or one set for all")

    settings: Settings

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from pairtune.tuners.beside import install_beside
        from pairtune.tuners.deep_prompt_model import PromptedModel, Prompts, check_blocks

        if base.family != "encoder":
            raise InputError(
                f"tuner deep-prompt: {base.source} is a language model; take peft:prompt_tuning or peft:prefix_tuning"
            )
        blocks = len(base.blocks) if self.settings.every else 1
        side = Prompts(blocks, self.settings.prompts, base.hidden_size).to(base.device)
        installed = install_beside(base, pair_model, lambda: PromptedModel(base, pair_model, side), self.provides)
        check_blocks(base, installed)
        return installed
