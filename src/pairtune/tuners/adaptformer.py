"""A scaled bottleneck beside each block's feed-forward part, made for vision transformers (AdaptFormer).

Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", arXiv 2205.13535: a frozen
transformer learns a new task through small parallel branches, which begin as nothing.

    x ← x' + FFN(LN(x')) + s · A(u),   A(u) = W_up dropout(ReLU(W_down u + b_down)) + b_up,   s = 0.1

x', u: [B, T, d]; W_down: [r, d], Kaiming-uniform; W_up: [d, r] and the biases zero. The released settings feed u = x',
the residual stream as it is, the paper's figure LN(x'): `reads` chooses. The new head reads batch-normalised features
(no scale), without which linear heads on such features fail at the paper's learning rates; the running statistics are
part of the delta. A batch of one row takes them as they are. Parameters added: L (2 d r + r + d) and the head.

Departures: on a post-norm base the residual stream and what the feed-forward part reads are one. Where a head is more
than one linear layer, or the model's own, its features are not normalised.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pairtune import method
from pairtune.tuners import Tuner

if TYPE_CHECKING:
    from torch import nn

    from pairtune.pair.base import Base
    from pairtune.pair.installed import Installed


class AdaptFormer(Tuner):
    """Parallel bottlenecks beside the feed-forward parts, scaled by a constant."""

    provides = frozenset({"tokens", "labels", "identity_at_start"})
    default_lr = 1e-3
    trainable_share = 0.025

    class Settings(method.Settings):
        r: int = Field(64, ge=1, description="width of the bottleneck")
        scale: float = Field(0.1, gt=0, description="factor of the branch's result")
        reads: Literal["residual", "norm"] = Field(
            "residual", description="the residual stream as it is, or normalised as the feed-forward part reads it"
        )
        form: Literal["parallel", "sequential"] = Field(
            "parallel", description="beside the feed-forward part, or behind"
        )
        dropout: float = Field(0.1, ge=0, lt=1, description="dropout in the bottleneck")

    settings: Settings

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from torch.nn import functional

        from pairtune.tuners.adapters import Bottleneck, Place, install_adapters

        own = self.settings
        residual = own.form == "sequential"
        place = Place("ffn", own.form, residual=residual, scale=own.scale, stream=own.reads == "residual")
        return install_adapters(
            base,
            pair_model,
            [place],
            lambda width: Bottleneck(width, own.r, functional.relu, own.dropout),
            norms=False,
            head_norm=True,
            provides=self.provides,
        )
