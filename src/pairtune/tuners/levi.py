"""Layer-wise ensemble of two views: a frozen base's blocks and a small model trained from scratch (LEVI).

"LEVI: Generalizable Fine-tuning via Layer-wise Ensemble of Different Views", arXiv 2402.04644 (ICML 2024). Fine-tuning
takes over spurious features of the fine-tuning data and of pretraining; those of two views that share no features do
not coincide, so that what both can use is emphasised. Small adapting heads join the outputs of the base's blocks with
the output of a small model Q that sees the raw input, and all train with one loss.

    h_k = LayerNorm_k(pool(H_{l_k}));   z = Q(x);   o_k = A_k([h_k, z])
    L = a · (1/K) Σ_k loss(o_k, y) + b · loss(mean_k o_k, y);   prediction: mean_k o_k (of logits, not probabilities)

H_l: [B, T, d_P] output of block l; h_k: [B, d_P]; z: [B, d_Q]; o_k: [B, C]. The paper's own loss weights, sizes and
pooling could not be confirmed; the defaults here are choices. It assumes that the cues of pretraining and of the data
do not overlap: where the data's cue is in the base already, it need not help.

Its ablations, one setting each: no small model `small=none`; last block only `layers=last`; small model alone
`layers=none`; a dependent view `view=base`; random base `random_base=1`; the best single head
`InstalledLevi.choose_head`; averaging models that were trained apart `levi_model.output_ensemble`. On a base already
tuned: install it on that pair. With `lora`, an adapter on the base trains along.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import pydantic
from pydantic import Field

from pairtune import method
from pairtune.errors import InputError
from pairtune.tuners import Tuner

if TYPE_CHECKING:
    from torch import nn

    from pairtune.pair.base import Base
    from pairtune.pair.delta import Delta
    from pairtune.pair.installed import Installed


class Levi(Tuner):
    """Heads on a frozen base's blocks and on a small model's own view of the input."""

    provides = frozenset({"labels", "cacheable"})
    modalities = frozenset({"text"})
    default_lr = 1e-3
    trainable_share = 0.31

    class Settings(method.Settings):
        layers: Literal["all", "last", "last-half", "none"] | list[int] = Field(
            "all", description="blocks that get a head: at most 12, evenly spaced; or their numbers, counted from 1"
        )
        pool: Literal["auto", "mean", "first", "last"] = Field(
            "auto", description="one vector a text: mean of the tokens (encoders), the last token (decoder-only models)"
        )
        hidden: int = Field(128, ge=1, description="hidden units of an adapting head")
        depth: Literal[1, 2] = Field(2, description="linear layers of an adapting head")
        dropout: float = Field(0.1, ge=0, lt=1, description="dropout in the heads and in the small model")
        small: Literal["transformer", "cnn", "none"] = Field(
            "transformer", description="architecture of the small model"
        )
        small_width: int = Field(128, ge=4, multiple_of=4, description="width of the small model and of its output")
        view: Literal["own", "base"] = Field(
            "own", description="the small model's input: the text's ids, or (ablation) the base's last hidden states"
        )
        head_weight: float = Field(1.0, ge=0, description="weight a of the heads' mean loss")
        ensemble_weight: float = Field(1.0, ge=0, description="weight b of the loss of the heads' mean")
        lora: int = Field(0, ge=0, description="rank of a LoRA on the base that trains along; 0: the base is frozen")
        lora_lr: float = Field(0.1, gt=0, description="learning rate of that LoRA as a multiple of the heads'")
        random_base: int | None = Field(
            None, description="ablation: seed of random weights that take the place of the base's"
        )

        @pydantic.model_validator(mode="after")
        def _something_to_fit(self) -> Levi.Settings:
            if self.small == "none" and self.layers in ("none", []):
                raise ValueError("layers and small are both none, so that nothing sees the input")
            if not self.head_weight and not self.ensemble_weight:
                raise ValueError("head_weight and ensemble_weight are both 0, so that nothing is fitted")
            if self.view == "base" and self.small == "none":
                raise ValueError("view base is the input of a small model, and small is none")
            return self

    settings: Settings

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from pairtune.tuners.levi_install import install_levi

        return install_levi(self.settings, base, pair_model)

    def extract(self, installed: Installed) -> Delta:
        from pairtune.pair.delta import Delta
        from pairtune.pair.parts import Module

        return Delta({name: Module(value) for name, value in installed.state().items()})


def chosen_layers(layers: str | list[int], count: int) -> list[int]:
    """The 1-based numbers of the blocks that get a head. Raises `InputError` for one that is not there."""
    if isinstance(layers, list):
        if wrong := [layer for layer in layers if not 1 <= layer <= count]:
            raise InputError(f"levi: layers: there is no block {wrong[0]}; this base has blocks 1 to {count}")
        return sorted(set(layers))
    if layers in ("none", "last"):
        return [] if layers == "none" else [count]
    every = list(range(1, count + 1)) if layers == "all" else list(range(count // 2 + 1, count + 1))
    # Twelve, evenly spaced and with the last one, are as many as the usual encoder has.
    return every if len(every) <= 12 else sorted({every[round((i + 1) * len(every) / 12) - 1] for i in range(12)})
