"""Low-rank adapters beside the linear layers (LoRA), with the variants that people use.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685: the change of a weight matrix is
learnt as a product of two thin ones, so that few parameters train and the base stays as it is.

    y = W x + (alpha / r) · B A x        W: [out, in] frozen; A: [r, in] random; B: [out, r] zero at the start

Variants: rank-stabilised scale alpha / √r (arXiv 2312.03732); DoRA, which learns magnitude and direction apart (arXiv
2402.09353); first factors taken from the base, PiSSA (arXiv 2404.02948) and OLoRA (arXiv 2406.01775); for CorDA see the
tuner `corda`. The layers are PEFT's, and so are the files. Departure: the initialisers that overwrite W in their papers
keep it here and train the same function beside it (see `peft_initial.py`); a new head trains whole, as PEFT's
`modules_to_save`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic
from pydantic import Field

from pairtune import method
from pairtune.tuners import Tuner

if TYPE_CHECKING:
    from torch import nn

    from pairtune.pair.base import Base
    from pairtune.pair.delta import Delta
    from pairtune.pair.installed import Installed


class LoRA(Tuner):
    """Low-rank change of the linear layers; the base in memory once."""

    provides = frozenset({"tokens", "labels", "masked", "scale", "merge", "identity_at_start"})
    default_lr = 2e-4
    trainable_share = 0.059

    class Settings(method.Settings):
        r: int = Field(16, ge=1, description="rank of the change of each matrix")
        alpha: float = Field(32.0, gt=0, description="the change is multiplied by alpha / r")
        dropout: float = Field(0.0, ge=0, lt=1, description="share of the adapters' inputs that is dropped in training")
        targets: Literal["all-linear"] | list[str] = Field(
            "all-linear", description="which layers: all linear ones but the output head, or ends of module names"
        )
        rslora: bool = Field(False, description="scale by alpha / √r instead, which stays stable at high ranks")
        dora: bool = Field(False, description="learn magnitude and direction apart; slower, better at low ranks")
        init: Literal["zero", "gaussian", "pissa", "olora"] = Field(
            "zero", description="first values: B = 0 with A uniform or Gaussian, or factors of the base's weights"
        )

        @pydantic.field_validator("init")
        @classmethod
        def _one_start(cls, init: str, info: pydantic.ValidationInfo) -> str:
            if info.data.get("dora") and init in ("pissa", "olora"):
                raise ValueError("does not fit dora, which has magnitudes of its own; leave one of the two out")
            return init

    settings: Settings

    def peft_settings(self) -> dict[str, Any]:
        """The same in PEFT's words."""
        own = self.settings
        return {
            "r": own.r,
            "lora_alpha": own.alpha if own.alpha % 1 else int(own.alpha),
            "lora_dropout": own.dropout,
            "target_modules": own.targets,
            "use_rslora": own.rslora,
            "use_dora": own.dora,
            "init_lora_weights": True if own.init == "zero" else own.init,
        }

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from pairtune.tuners.peft_config import make_config
        from pairtune.tuners.peft_install import install_peft

        return install_peft(base, pair_model, make_config(base, "lora", self.peft_settings()))

    def extract(self, installed: Installed) -> Delta:
        from pairtune.tuners.peft_extract import extract_peft

        return extract_peft(installed)

    def restore(self, base: Base, pair_model: nn.Module, folder: Path) -> Installed:
        from pairtune.tuners.peft_install import restore_peft

        return restore_peft(base, pair_model, folder)
