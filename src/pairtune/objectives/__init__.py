"""What pulls the delta: the training losses, one file a method.

A loss is a SUM over its units (items, tokens or groups), never a mean: the loop divides by the units of the whole
accumulated batch, over all processes. So a batch cut into pieces of any size gives the gradient of the uncut one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pairtune import registry
from pairtune.errors import InputError
from pairtune.method import VIEWS, Method

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.outputs import Outputs
    from pairtune.pair.pair import Pair

IGNORED = -100  # a label that is not scored


@dataclass
class Loss:
    """What an objective says of one batch.

    Attributes:
        total: scalar, the loss summed over the batch's units; differentiable.
        units: how many units were summed (what `Objective.units` counts).
        parts: further sums over the same units for the log (detached scalars), such as the number of correct items
            under "accuracy"; the log shows them divided by the units.
    """

    total: Tensor
    units: float
    parts: dict[str, Tensor] = field(default_factory=dict)


class Objective(Method):
    """One training loss.

    Attributes:
        needs: the view of a pair that it reads: "tokens", "labels" or "masked"; also "base_outputs" or
            "reference_outputs" when it asks the pair for them (they are then computed before the variant's forward).
        unit: over what the loss is a mean.
        kinds: the kinds of task that it serves.
        families: the model families that it serves.
        coupled: whether the loss of one item depends on the others of its batch; such a batch is never cut.
        rising: the names in `Loss.parts` for which more is better; the others and the loss are better when lower.
    """

    needs: ClassVar[frozenset[str]]
    unit: ClassVar[Literal["item", "token", "group"]] = "item"
    kinds: ClassVar[frozenset[str]] = frozenset()
    families: ClassVar[frozenset[str]] = frozenset({"causal", "seq2seq", "encoder"})
    coupled: ClassVar[bool] = False
    rising: ClassVar[frozenset[str]] = frozenset()

    def units(self, batch: dict[str, Any]) -> float:
        """How many units a batch holds, known before the forward."""
        return float(len(batch["labels"]))

    def loss(self, pair: Pair, batch: dict[str, Any], out: Outputs) -> Loss:
        """The summed loss of one batch. `out.views` holds every logits tensor to fit, with its weight."""
        raise NotImplementedError


def views_of(provides: Collection[str], family: str) -> frozenset[str]:
    """Which of "tokens", "labels" and "masked" a tuner gives on a base of this family.

    A language model's own head gives tokens. A tuner without them brings a head of its own. An encoder's head, loaded
    or new, gives labels or hidden tokens, as the task asks.
    """
    if family == "encoder":
        return frozenset(provides) & {"labels", "masked"}
    return frozenset({"tokens"}) if "tokens" in provides else frozenset({"labels"}) & frozenset(provides)


def pick(kind: str, family: str, provides: Collection[str]) -> str:
    """The name of the objective that fits a task's kind, a model family and what a tuner provides (`objective: auto`).

    Reads the methods' files without importing them. Raises `InputError` naming what there is where nothing fits.
    """
    fitting = [name for name in registry.methods("objectives") if not misfit(name, kind, family, provides)]
    if not fitting:
        raise InputError(
            f"no objective fits a task of kind {kind} on {family} models with a tuner that provides "
            f"{', '.join(sorted(provides)) or 'nothing'} (objectives: {', '.join(registry.methods('objectives'))})"
        )
    return fitting[0]


def misfit(name: str, kind: str, family: str, provides: Collection[str]) -> str | None:
    """Why an objective cannot be used for a task on a model family with a tuner, in one clause; None when it can."""
    info = registry.find("objectives", name)
    kinds = info.traits.get("kinds", frozenset())
    families = info.traits.get("families", Objective.families)
    lacking = ((info.needs or frozenset()) & VIEWS) - views_of(provides, family)
    if kind not in kinds:
        return f"objective {name} serves {' and '.join(sorted(kinds))} tasks, this one is {kind}"
    if family not in families:
        return f"objective {name} serves {' and '.join(sorted(families))} models, the base is {family}"
    if lacking:
        return f"objective {name} needs {' and '.join(sorted(lacking))}, which the tuner does not provide on this base"
    return None
