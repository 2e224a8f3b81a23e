"""Only the biases train, and a task's head (BitFit).

Ben Zaken, Goldberg and Ravfogel, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models", arXiv 2106.10199: a thousandth of the parameters, which shift every activation and rotate none.

    y = W x + b        W: [out, in] frozen; b: [out] trained, those of attention, feed-forward and norms alike
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pairtune.errors import InputError
from pairtune.tuners import Tuner

if TYPE_CHECKING:
    from torch import nn

    from pairtune.pair.base import Base
    from pairtune.pair.installed import Installed


class BitFit(Tuner):
    """All biases of an encoder."""

    provides = frozenset({"labels", "masked", "scale", "merge", "identity_at_start"})
    families = frozenset({"encoder"})
    default_lr = 1e-3
    trainable_share = 0.0012

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from pairtune.tuners.dense import InstalledDense, head_parameters

        biases = [name for name in base.parameters if name.endswith(".bias")]
        if not biases:
            raise InputError(f"tuner bitfit: {base.source} has no biases; take lora or sparse")
        return InstalledDense(base, dict.fromkeys([*biases, *head_parameters(base)]), self.provides, pair_model)
