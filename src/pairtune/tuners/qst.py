"""Quantised side tuning: a narrow copy of the base beside it, fed by every block's output; the base in four bits.

Zhang et al., "Quantized Side Tuning: Fast and Memory-Efficient Tuning of Quantized Large Language Models", arXiv
2401.07159. Weights take a quarter (`--quantize 4bit`, NF4), no gradient passes through the base, and what trains is
narrow: nearly all that a training step keeps besides the weights is the side network's own.

    q_0 = D_0 h_0,   u_i = (1 − z_i) ∘ D_i h_{i+1} + z_i ∘ q_i,   q_{i+1} = B_i(u_i),   z_i = sigmoid(β_i)
    H* = a ∘ norm(h_L) + (1 − a) ∘ U norm_side(q_L),   logits = head(H*)

h_i: [B, T, d] what enters the base's block i, h_{i+1} its output; q_i, u_i: [B, T, d_s] with d_s = d / reduction; B_i:
blocks of the base's own class with that width, as many heads, their own positions and mask; D_i: R^d → R^{d_s}, D_0
used twice; β_i: [d_s], 0.5 at the start; U: linear with bias; a: [d], 1 at the start, so that the variant begins as the
base. norm and head are the base's, frozen.

Departures: `a` is a plain vector as the paper means it, the released code's sigmoid(1) = 0.73 begins elsewhere (gate
"sigmoid"); no dropout in the side (as the released code in effect); the absolute maxima of the 4-bit blocks are not
quantised again, so that a weight takes 4.5 bits; encoders of text, images and sound are served too, mixed at the last
block's output, and a new head trains whole. Ladder side tuning (`ladder`) has residual MLPs in the blocks' place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pairtune import method
from pairtune.errors import InputError
from pairtune.tuners import Tuner

if TYPE_CHECKING:
    from torch import nn

    from pairtune.pair.base import Base
    from pairtune.pair.installed import Installed


class QST(Tuner):
    """A narrow Transformer beside the base; cannot be merged into it."""

    provides = frozenset({"tokens", "labels", "identity_at_start"})
    families = frozenset({"causal", "encoder"})
    default_lr = 4e-4
    trainable_share = 0.0066

    class Settings(method.Settings):
        reduction: int = Field(16, ge=2, description="the side network is this many times narrower than the base")
        down: Literal["adapter", "lora", "linear", "max-pool", "avg-pool"] = Field(
            "adapter", description="how a block's output is narrowed; the pools train nothing and keep no activations"
        )
        rank: int = Field(16, ge=1, description="width between the two matrices of adapter and lora")
        gate: Literal["free", "sigmoid"] = Field(
            "free", description="the mix with the base's output: a plain vector, or its sigmoid as in the released code"
        )

    settings: Settings

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from pairtune.tuners.qst_model import install_qst

        if base.family == "seq2seq":
            raise InputError(
                f"tuner qst: {base.source} is an encoder-decoder; it serves decoder-only models and encoders"
            )
        own = self.settings
        return install_qst(base, pair_model, own.reduction, own.down, own.rank, own.gate)
