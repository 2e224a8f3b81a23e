"""What holds the delta back: penalties, frozen parts, learning-rate groups, projections; one file a method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from pairtune.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.outputs import Outputs
    from pairtune.pair.pair import Pair


class ParameterGroup(TypedDict):
    """Trainable parameters by name, and by what their learning rate is multiplied."""

    names: list[str]
    lr_scale: float


class Constraint(Method):
    """One way to keep a variant near its base. A subclass overrides what it uses; several work together.

    Attributes:
        needs: what it asks of the pair in a step: "base_outputs", "reference_outputs" (they are then computed before
            the variant's forward), "tokens", "labels".
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def prepare(self, pair: Pair) -> None:
        """Called once, before the optimizer is made: freeze, re-initialise, or refuse a pair that it cannot serve."""

    def penalty(self, pair: Pair, batch: dict[str, Any], out: Outputs) -> Tensor | None:
        """What is added to the loss, in mean form: of this batch where it depends on the data.

        The loop weighs it by the batch's share of the units of the step, so that over an optimizer step it counts once.
        """
        return None

    def on_gradients(self, pair: Pair) -> None:
        """Called with the step's whole gradient in place, before it is clipped."""

    def after_step(self, pair: Pair) -> None:
        """Called after the optimizer's step."""

    def finish(self, pair: Pair) -> None:
        """Called when training has ended, however it did: take off the model what `prepare` put on it."""

    def parameter_groups(self, pair: Pair) -> list[ParameterGroup] | None:
        """Learning-rate factors by name of trainable parameter; a name that is absent keeps the factor 1."""
        return None
