"""Adapters that mix neighbouring tokens: a Conformer's convolution inside the bottleneck.

Cappellazzo et al., "Parameter-Efficient Transfer Learning of Audio Spectrogram Transformers", arXiv 2312.03694: where
neighbours belong together, as in sound, a depth-wise convolution in the bottleneck finds what a bottleneck over each
token alone cannot.

    A(u) = P_out SiLU(BN(DW_k(GLU(P_in u))))      P_in: d → 2b, P_out: b → d, zero at the start; DW_k: over T, k wide
    parallel:  f ← f + A(u) [+ u]  sequential:  f ← A(f) [+ f]     f: [B, T, d] a half's contribution; b = d / reduction

The norms before the adapted halves, the last norm and the head train, too. The paper prefers no residual connection of
its own in parallel and one in sequence, as is the default here; the other way round, the model does not begin as the
base. The tokens keep the model's order, so that neighbours are those of the flattened patches, class tokens included.
Padding is hidden from the convolution; the batch norm's running statistics are part of the delta.

Departures: all of the base's normalisation layers train. Models that read from left to right are refused, since the
convolution would show them the next token.
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


class ConformerAdapter(Tuner):
    """Bottlenecks with a depth-wise convolution over the tokens."""

    provides = frozenset({"labels", "identity_at_start"})
    families = frozenset({"encoder"})
    default_lr = 1e-3
    trainable_share = 0.0018

    class Settings(method.Settings):
        reduction: int = Field(96, ge=1, description="the bottleneck is this many times narrower than the base")
        kernel: int = Field(31, ge=1, description="tokens that the convolution sees at once; odd")
        form: Literal["parallel", "sequential"] = Field("parallel", description="beside a half, or behind it")
        where: Literal["ffn", "both"] = Field("ffn", description="the feed-forward part, or attention as well")
        residual: bool | None = Field(
            None, description="whether an adapter has a residual connection; by default in sequence alone"
        )
        norms: bool = Field(True, description="whether the base's normalisation layers train, too")

    settings: Settings

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from pairtune.tuners.adapters import ConformerBottleneck, Place, halves, install_adapters

        own = self.settings
        if own.kernel % 2 == 0:
            raise InputError(f"tuner conformer-adapter: kernel {own.kernel} has no middle; take an odd number")
        usual = own.form == "sequential"
        residual = usual if own.residual is None else own.residual
        return install_adapters(
            base,
            pair_model,
            [Place(half, own.form, residual=residual, mixes=True) for half in halves(own.where)],
            lambda width: ConformerBottleneck(width, max(round(width / own.reduction), 1), own.kernel),
            norms=own.norms,
            provides=self.provides if residual == usual else self.provides - {"identity_at_start"},
        )
