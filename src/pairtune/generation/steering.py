"""Directions added to the residual stream while a model runs.

    h_l ← h_l + v_l        h_l: [d] behind block l, at chosen positions; v_l: the sum of all vectors' directions there

"generated" positions are those whose output says a new token: the prompt's last one and every later one. With a cache
each later step is one position, and all of them are steered; what the prompt left in the cache stays the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from pairtune.generation.vectors import SteeringVectors, steerable, summed

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

Positions = Literal["generated", "all"]


class Steering:
    """Vectors on a model; made by `steered`."""

    def __init__(self, positions: Positions):
        self._positions: Positions = positions
        self._where: int | Tensor | None = None

    @contextmanager
    def answering(self, where: int | Tensor) -> Iterator[None]:
        """Say which positions of the passes inside are generated ones, where no cache tells.

        Args:
            where: [B or 1, T] bool, or the number of positions of all prompts, padded on the left.
        """
        before, self._where = self._where, where
        try:
            yield
        finally:
            self._where = before

    def add(self, hidden: Tensor, direction: Tensor) -> Tensor:
        """Hidden states [B, T, d] with the direction added where it belongs."""
        moved = direction.to(hidden)
        length = hidden.shape[1]
        if self._positions == "all":
            return hidden + moved
        if isinstance(self._where, Tensor):
            return hidden + self._where.to(hidden.device)[..., None] * moved
        if length == 1:  # a step behind the cache
            return hidden + moved
        first = length - 1 if self._where is None else self._where - 1
        return hidden + (torch.arange(length, device=hidden.device) >= first)[:, None] * moved


@contextmanager
def steered(
    pair: Pair, vectors: SteeringVectors | Sequence[SteeringVectors], positions: Positions = "generated"
) -> Iterator[Steering]:
    """While inside, the vectors are added on whichever side of the pair is on.

    The width and depth of the base are checked; its fingerprint is for whoever opens a file (`SteeringVectors.check`).

    Args:
        positions: "generated", or "all", the prompt's included.
    """
    given = [vectors] if isinstance(vectors, SteeringVectors) else list(vectors)
    for one in given:
        one.check_shape(pair.base)
    steering, blocks = Steering(positions), steerable(pair.base)
    with ExitStack() as stack:
        for block, direction in summed(given).items():
            hook = _hook(steering, direction.to(pair.base.device))
            stack.callback(blocks[block].register_forward_hook(hook).remove)
        yield steering


def _hook(steering: Steering, direction: Tensor) -> Any:
    def add(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (steering.add(output[0], direction), *output[1:])
        return steering.add(output, direction)

    return add
