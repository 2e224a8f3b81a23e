"""Ladder side tuning: a narrow network beside a frozen base, fed by each block's output.

Sung, Cho and Bansal, "LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning", arXiv 2206.06522.
Gradients flow through the side network alone, so that the base runs without keeping activations for a backward pass.

    s_0 = D_0 h_0;   s_i = B_i(μ_i · D_i h_i + (1 − μ_i) · s_{i−1}),   μ_i = sigmoid(α_i / 0.1);   h_L' = h_L + U s_L

h_i: [B, T, d] output of the base's block i; s_i: [B, T, d / reduction]; D_i, U: linear; U is zero at the start, so
that the variant begins as the base. h_L' goes on into the base's own final norm and head, which stay frozen (a new
head trains whole).

Departures: the side blocks B_i are residual MLPs over each token (norm, linear, GELU, linear), not narrow Transformer
blocks cut out of the base, as attention has already mixed the h_i; encoder-decoder bases are not served.
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


class Ladder(Tuner):
    """A side network whose result is added to the last block's output."""

    provides = frozenset({"tokens", "labels", "identity_at_start"})
    families = frozenset({"causal", "encoder"})
    default_lr = 1e-3
    trainable_share = 0.013

    class Settings(method.Settings):
        reduction: int = Field(8, ge=1, description="the side network is this many times narrower than the base")
        dropout: float = Field(0.0, ge=0, lt=1, description="dropout in the side network")

    settings: Settings

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from pairtune.tuners.ladder_model import install_ladder

        if base.family == "seq2seq":
            raise InputError(
                f"tuner ladder: {base.source} is an encoder-decoder; it serves decoder-only models and encoders"
            )
        return install_ladder(base, pair_model, self.settings.reduction, self.settings.dropout)
