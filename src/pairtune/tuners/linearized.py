"""The base replaced by its first-order expansion in the weights: the delta acts through a directional derivative.

Rahimi Afzal, Esmaeilbeig, Soltanalian and Ohannessian, "Linearization Explains Fine-Tuning in Large Language Models",
arXiv 2602.08239: with a strong pull to the pretrained weights (constraint `l2sp`), fine-tuning follows the kernel
regression of the neural tangent kernel at the base. This is the model of that explanation, tuned itself.

    f̄_θ(x) = f_θ0(x) + ⟨∇f_θ0(x), θ − θ0⟩        f: logits; θ − θ0: the delta, the shape of the chosen weights

The second term is one forward-mode derivative (`torch.func.jvp`) along the delta, which trains through it in reverse
mode. The delta means nothing for the network itself: it is stored as tensors that stand alone, cannot be merged, and
is linear in its strength. A new head is expanded around its first values, which are stored with it.

Departures: the logits of any head are linearised, and the loss is whatever the objective is (the theory has squared
loss and full-batch gradient descent); attention is computed in its plain form, as fused kernels have no forward-mode
derivative; a quantised base is refused. The paper's regulariser that acts only where it does not work against the loss
is not among the constraints.
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
    from pairtune.pair.delta import Delta
    from pairtune.pair.installed import Installed


class Linearized(Tuner):
    """The base's tangent plane; every step costs a plain pass and a pass with derivatives."""

    provides = frozenset({"tokens", "labels", "masked", "scale", "identity_at_start", "moves_logits"})
    default_lr = 1e-4
    trainable_share = 1.0

    class Settings(method.Settings):
        layers: Literal["all"] | list[int] = Field(
            "all", description="numbers of the blocks whose weights move, from 0 (a new head too); all: every weight"
        )

    settings: Settings

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from pairtune.tuners.linearized_model import InstalledLinearized, moving

        return InstalledLinearized(base, pair_model, moving(base, self.settings.layers))

    def extract(self, installed: Installed) -> Delta:
        from pairtune.pair.delta import Delta
        from pairtune.pair.parts import Module

        return Delta({name: Module(value.clone()) for name, value in installed.state().items()})
