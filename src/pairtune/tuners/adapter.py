"""Bottleneck adapters behind or beside the halves of each block: Houlsby, Pfeiffer and parallel adapters.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", arXiv 1902.00751: two small layers with a bottleneck
are put into each block of a frozen model, and begin as nothing, so that tuning changes few numbers.

    A(u) = W_up act(W_down u + b_down) + b_up          W_down: [d / reduction, d]; W_up: the reverse, zero at the start
    sequential: f ← f + A(f);   parallel: f ← f + s · A(u)      f: a half's contribution; u: what that half reads

Known under these names: Houlsby is `sequential` behind both halves; Pfeiffer (arXiv 2005.00247) is `sequential` behind
the feed-forward part alone, the default; the parallel adapter (He et al., arXiv 2110.04366) is `parallel` there, with
s = 4. The base's normalisation layers train too, as in the first of these papers; a new head trains whole.
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


class Adapter(Tuner):
    """Two small layers with a bottleneck in each block."""

    provides = frozenset({"tokens", "labels", "identity_at_start"})
    default_lr = 1e-3
    trainable_share = 0.0069

    class Settings(method.Settings):
        reduction: int = Field(16, ge=1, description="the bottleneck is this many times narrower than the base")
        form: Literal["sequential", "parallel"] = Field("sequential", description="behind a half, or beside it")
        where: Literal["ffn", "both"] = Field("ffn", description="the feed-forward part, or attention as well")
        scale: float = Field(1.0, gt=0, description="factor of a parallel adapter's result")
        activation: Literal["relu", "gelu", "silu"] = Field("gelu", description="the function in the bottleneck")
        dropout: float = Field(0.0, ge=0, lt=1, description="dropout in the bottleneck")
        norms: bool = Field(True, description="whether the base's normalisation layers train, too")

    settings: Settings

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from torch.nn import functional

        from pairtune.tuners.adapters import Bottleneck, Place, halves, install_adapters

        own = self.settings
        sequential = own.form == "sequential"
        places = [
            Place(half, own.form, residual=sequential, scale=1.0 if sequential else own.scale)
            for half in halves(own.where)
        ]
        activation = getattr(functional, own.activation)
        return install_adapters(
            base,
            pair_model,
            places,
            lambda width: Bottleneck(width, max(width // own.reduction, 1), activation, own.dropout),
            norms=own.norms,
            provides=self.provides,
        )
