"""Linear probing: only the task's head trains, on what the frozen base says.

The head is the one that the task's model class adds to the base (new, or the checkpoint's own if it has one). Nothing
of the base's blocks changes, so that what enters the head is computed once for every text and read from a cache
afterwards:

    logits = head(h_L)        h_L: [B, T, d] output of the last block; heads of encoders read its first position

As the first stage of a recipe it gives full tuning a head to start from (LP-FT: Kumar et al., arXiv 2202.10054).
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


class Head(Tuner):
    """The classification or regression head of an encoder."""

    provides = frozenset({"labels", "scale", "merge", "identity_at_start", "cacheable"})
    families = frozenset({"encoder"})
    default_lr = 1e-3
    trainable_share = 0.000034

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from pairtune.tuners.head_model import InstalledHead

        if base.family != "encoder":
            raise InputError(
                f"tuner head: {base.source} is a language model, which classifies by text and has no head apart; take "
                "lora, or levi (its heads stand on the activations)"
            )
        prefix = base.model.base_model_prefix + "."
        names = sorted(base.new_names) or [name for name in base.parameters if not name.startswith(prefix)]
        if not names or base.model.base_model is base.model:
            raise InputError(
                f"tuner head: {base.source} was loaded without a head; name a classification or regression task"
            )
        return InstalledHead(base, names, self.provides, pair_model)
