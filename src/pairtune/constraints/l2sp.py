"""Squared distance to the base's weights as a penalty (L2-SP).

Li, Grandvalet and Davoine, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", arXiv
1802.01483: regularisation should pull to where tuning started, not to zero. The paper's equation 4:

    Ω = weight/2 · Σ_p ‖p − p0‖² + head_weight/2 · Σ_q ‖q‖²        p: parameters of the base, p0: their values there;
                                                                    q: parameters of a new head

For a low-rank delta W = W0 + s·B·A the distance is ‖s·B·A‖² = s² Σ (BᵀB) ∘ (A Aᵀ), [r, r] matrices only.
Combine it with weight decay 0: decay pulls the same weights to zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from pairtune import method
from pairtune.constraints import Constraint
from pairtune.constraints.low_rank import low_rank_factors
from pairtune.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.outputs import Outputs
    from pairtune.pair.pair import Pair


class L2SP(Constraint):
    """Penalty on the size of the delta. Refuses tuners whose parameters have no counterpart in the base."""

    class Settings(method.Settings):
        weight: float = Field(0.1, ge=0, description="weight of the squared distance to the base's parameters")
        head_weight: float = Field(0.01, ge=0, description="weight of the squared norm of a new head's parameters")

    settings: Settings

    def prepare(self, pair: Pair) -> None:
        installed = pair.top.installed
        covered = {id(p) for factors in low_rank_factors(installed.model) for p in factors.trained}
        covered |= {id(p) for name, p in pair.trainable() if installed.origin(name) is not None}
        lacking = [name for name, p in pair.trainable() if id(p) not in covered and not self._is_head(pair, name)]
        if lacking:
            tuner = pair.top.record.get("tuner") or {}
            raise ConfigError(
                [
                    f"l2sp: {lacking[0]} of the tuner {tuner.get('name', 'in use')} has no counterpart in the base "
                    f"({len(lacking)} such tensors); use the tuners full, head, lora or linearized, or constraint kl"
                ],
                "constraints",
            )

    def penalty(self, pair: Pair, batch: dict[str, Any], out: Outputs) -> Tensor:
        installed = pair.top.installed
        moved: list[Tensor] = []
        head: list[Tensor] = []
        for name, parameter in pair.trainable():
            origin = installed.origin(name)
            if self._is_head(pair, name):
                head.append(parameter.float().square().sum())
            elif origin is not None and parameter.requires_grad:
                moved.append((parameter.float() - origin.float()).square().sum())
        moved += [factors.squared_norm() for factors in low_rank_factors(installed.model)]
        zero = torch.zeros((), device=pair.base.device)
        return 0.5 * (self.settings.weight * sum(moved, zero) + self.settings.head_weight * sum(head, zero))

    def _is_head(self, pair: Pair, name: str) -> bool:
        """Whether a parameter is a new head's, or a wrapper's copy of one (`...modules_to_save.default.weight`)."""
        if name in pair.base.new_names:
            return True
        if ".modules_to_save." not in name:
            return False
        owners = {new.rpartition(".")[0] for new in pair.base.new_names}
        return any(f".{owner}.modules_to_save." in f".{name}" for owner in owners)
