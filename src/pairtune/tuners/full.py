"""Full fine-tuning: every parameter of the base, and a new head where the task needs one.

The oldest method and the reference for all others. The variant is a second set of Parameters that is exchanged with the
base's when the pair is switched:

    W = W0 + Δ        Δ: the shape of W0, zero at the start

It costs the base's memory a second time, gradients and optimiser states besides; the base itself is never written to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pairtune.tuners import Tuner

if TYPE_CHECKING:
    from torch import nn

    from pairtune.pair.base import Base
    from pairtune.pair.delta import Delta
    from pairtune.pair.installed import Installed


class Full(Tuner):
    """All parameters; tied ones stay tied."""

    provides = frozenset({"tokens", "labels", "masked", "scale", "merge", "identity_at_start"})
    default_lr = 2e-5
    trainable_share = 1.0

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from pairtune.tuners.dense import InstalledDense

        return InstalledDense(base, base.parameters, self.provides, pair_model)

    def start(self, base: Base, pair_model: nn.Module, delta: Delta) -> Installed:
        installed = self.install(base, pair_model)
        installed.begin_at(delta)  # type: ignore[attr-defined]
        return installed
