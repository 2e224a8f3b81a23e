"""What a pair writes, and directions of the residual stream that steer it.

A direction's method is one file of this room: from the activations with something and without it, the direction in
which the first lie. `vectors.py` keeps such directions by block, `steering.py` adds them while a model runs, and
`engine.py` lets it write, with transformers' `generate` underneath.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from pairtune.method import Method

if TYPE_CHECKING:
    from torch import Tensor


class Direction(Method):
    """How a direction is read off activations. Subclasses are the methods of this room."""

    @abstractmethod
    def fit(self, present: Tensor, absent: Tensor) -> Tensor:
        """[d] float64 of length 1: where the activations `present` [n, d] lie, seen from `absent` [m, d].

        Raises `InputError` where they do not differ.
        """

    def plane(self, present: Tensor, absent: Tensor) -> Tensor:
        """[d] float64: the normal of the planes by which the two sides are told apart; by default the direction itself.

        A direction to go along and a normal to look along are not the same where activations are scaled first.
        """
        return self.fit(present, absent)


def unit(vector: Tensor) -> Tensor:
    """The vector with length 1. Raises `InputError` for one without a direction."""
    from pairtune.errors import InputError

    length = float(vector.norm())
    if not 0 < length < float("inf"):
        raise InputError("the activations on both sides are the same, so that they show no direction")
    return vector / length
