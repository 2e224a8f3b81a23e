"""How far a pair's change of weights lies inside the region where the base is as good as its linearisation.

    error(α) = ‖f_{θ0+αδ}(X) − f_θ0(X) − α J δ‖ / ‖f_{θ0+αδ}(X) − f_θ0(X)‖        δ: the delta, J at the base

Near 0 the change acts as a linear model's would; from about 1 on, the linear model says nothing about it. (After arXiv
2602.08239; the measure is the note's own.) An encoder's new head is taken as it was tuned, on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call, jvp

from pairtune.errors import MissingView
from pairtune.pair.apply import new_values
from pairtune.pair.pair import evaluating
from pairtune.tuners.linearized_model import plain_attention

if TYPE_CHECKING:
    from pairtune.pair.base import Base
    from pairtune.pair.pair import Pair

ALPHAS = (0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Linearity:
    """error: by alpha. size: ‖δ‖; share: of the norm of the weights that it changes."""

    error: dict[float, float]
    size: float
    share: float


def linearity(
    pair: Pair, batches: Sequence[dict[str, Any]], outputs: Callable[[dict[str, Any]], Tensor]
) -> Linearity | None:
    """Measure along the top delta; None where it is no change of weights.

    Args:
        batches: model inputs. outputs: [B, K] of the base's model on a batch (see `ntk.outputs_of`).
    """
    try:
        with pair.off():
            point, delta, heads = directions(pair)
    except MissingView:
        return None
    squares = {alpha: [0.0, 0.0] for alpha in ALPHAS}
    base = pair.base
    with pair.off(), evaluating(base.model), plain_attention(base.model), torch.no_grad():
        for batch in batches:

            def at(moving: dict[str, Tensor], batch: dict[str, Any] = batch) -> Tensor:
                return _called(base, {**heads, **moving}, batch, outputs)

            start, slope = jvp(at, (point,), (delta,))  # type: ignore[misc]
            for alpha, sums in squares.items():
                moved = at({name: point[name] + alpha * delta[name] for name in point}) - start
                sums[0] += float((moved - alpha * slope).double().square().sum())
                sums[1] += float(moved.double().square().sum())
    error = {alpha: (wrong / moved) ** 0.5 if moved else float("nan") for alpha, (wrong, moved) in squares.items()}
    size = _norm(delta)
    return Linearity(error, size, size / _norm(point))


def directions(pair: Pair) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Where the top delta starts, its direction, and a new head as tuned; by names in memory.

    Raises `MissingView` where it is no change of weights.
    """
    base, delta = pair.base, pair.delta
    if foreign := [name for name in delta if base.names.memory(name) is None]:
        raise MissingView(f"{foreign[0]} is no weight of the base, so that the delta has no direction in its weights")
    current = {name: parameter.detach() for name, parameter in base.parameters.items()}
    values = new_values(base, delta, current)
    heads = {name: value for name, value in values.items() if name in base.new_names}
    changed = {name: value for name, value in values.items() if name not in base.new_names}
    if any(value.shape != current[name].shape for name, value in changed.items()):
        raise MissingView("the delta adds rows to a weight, so that it has no direction")
    point = {name: current[name] for name in changed}
    return point, {name: value.to(current[name]) - current[name] for name, value in changed.items()}, heads


def _called(
    base: Base, values: dict[str, Tensor], batch: dict[str, Any], outputs: Callable[[dict[str, Any]], Tensor]
) -> Tensor:
    """`outputs` with some of the base's Parameters replaced, wherever an adapter has moved them to."""
    places = {id(parameter): name for name, parameter in base.model.named_parameters()}

    class Asked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = base.model

        def forward(self) -> Tensor:
            return outputs(batch)

    moved = {f"model.{places[id(base.parameters[name])]}": value for name, value in values.items()}
    return functional_call(Asked(), moved, ())


def _norm(tensors: dict[str, Tensor]) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors.values()) ** 0.5
