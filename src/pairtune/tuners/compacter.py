"""Adapters whose weights are sums of Kronecker products with factors that all of them share (Compacter).

Karimi Mahabadi, Henderson and Ruder, "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers", arXiv 2106.04647: the
adapters of all blocks have much in common; n small matrices hold it once, and each adapter adds rank-one factors, so
that its weights grow with k + d and not with k · d.

    f ← f + A(f),   A(f) = L_up(gelu(L_down f)),   L(x) = x W + b,   W = Σ_{i=1..n} A_i ⊗ (s_i t_i)

f: [B, T, d], a half's contribution, behind attention and the feed-forward part (Compacter) or the latter alone
(Compacter++: `where: ffn`); A_i: [n, n], one set for the model, from N(0, 1e-4²); s_i: [k / n, rank], t_i:
[rank, d / n], Xavier with gain √2; biases zero: nearly, but not exactly, the base at the start. The base's
normalisation layers train, too. Cross-attention has no adapter, the language-model head stays frozen, a new
head trains whole.

With T5-base, n = 4 and reduction 32 this is 2 376 numbers an adapter, and 0.073 % (0.047 %) of the model with the
norms. The rates of learning that suit it are large, since the factors are small: 3e-3 is the paper's.
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


class Compacter(Tuner):
    """Bottleneck adapters of Kronecker products, one factor shared by all."""

    provides = frozenset({"tokens", "labels"})
    default_lr = 3e-3
    trainable_share = 0.0017

    class Settings(method.Settings):
        n: int = Field(4, ge=1, description="how many products are summed; must divide the width and the bottleneck")
        reduction: int = Field(32, ge=1, description="the bottleneck is this many times narrower than the base")
        rank: int = Field(1, ge=1, description="rank of each adapter's own factors")
        where: Literal["both", "ffn"] = Field("both", description="both halves (Compacter), or ffn (Compacter++)")
        norms: bool = Field(True, description="whether the base's normalisation layers train, too")

    settings: Settings

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from pairtune.tuners.adapters import Place, halves, install_adapters
        from pairtune.tuners.phm import PHMBottleneck, Rule

        own, width = self.settings, base.hidden_size
        narrow = width // own.reduction
        if not narrow or width % own.n or narrow % own.n:
            raise InputError(
                f"tuner compacter: n = {own.n} must divide the width {width} of {base.source} and the bottleneck "
                f"{width} // {own.reduction} = {narrow}; choose another n or reduction"
            )
        rule = Rule(own.n)
        return install_adapters(
            base,
            pair_model,
            [Place(half, "sequential", residual=True) for half in halves(own.where)],
            lambda width: PHMBottleneck(width, narrow, own.rank, rule),
            norms=own.norms,
            shared=rule,
            provides=self.provides,
        )
