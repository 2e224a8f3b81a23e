"""Two sets of activations that differ in one thing, and the direction of that thing behind every block.

Activations of base and variant come from two models, which differ on any text whatever: a direction fitted to them as
they are may be nothing but "which model is this". So the mean difference of both on rows where they agree (Q1 and Q3)
is taken off the variant's before anything is fitted,

    o_l = mean over Q1, Q3 of (h_l^variant − h_l^base)        h_l^variant ← h_l^variant − o_l

and what is reported beside each direction says whether that was enough: the cosine with the direction that tells the
models apart on Q1 and Q3, and how well that one alone tells the sides of this contrast apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pairtune.errors import InputError

if TYPE_CHECKING:
    from pairtune.generation import Direction

FEWEST = 20  # pairs below which no direction is fitted
FOLDS = 5


@dataclass(frozen=True)
class Contrast:
    """present, absent: [n, L, d] activations of the same n rows. Raises `InputError` below 20 rows."""

    name: str
    present: Tensor
    absent: Tensor

    def __post_init__(self):
        if len(self.present) < FEWEST:
            raise InputError(
                f"{self.name}: {len(self.present)} pairs of activations are too few for a direction, {FEWEST} are "
                "needed; give more rows"
            )

    def at(self, block: int) -> tuple[Tensor, Tensor]:
        """Both sides [n, d] float64 behind one block."""
        return self.present[:, block].double(), self.absent[:, block].double()

    def blocks(self, wanted: Sequence[int] | None) -> list[int]:
        """Those of the blocks wanted behind which the sides differ; below a delta's first change they do not."""
        every = range(self.present.shape[1])
        return [i for i in every if (wanted is None or i in wanted) and not torch.equal(*self.at(i))]


@dataclass(frozen=True)
class Fitted:
    """A direction behind every block where there is one.

    Attributes:
        directions: block → [d] float64, of length 1. sigma: standard deviation of both sides' activations along it.
        accuracy: of the method's plane on held-out rows, both sides of a row being held out together.
    """

    name: str
    directions: dict[int, Tensor]
    sigma: dict[int, float]
    accuracy: dict[int, float]


def fit(contrast: Contrast, method: Direction, blocks: Sequence[int] | None = None) -> Fitted:
    """Fit a direction behind some blocks; by default behind all."""
    found = Fitted(contrast.name, {}, {}, {})
    for block in contrast.blocks(blocks):
        present, absent = contrast.at(block)
        found.directions[block] = method.fit(present, absent)
        found.sigma[block] = float((torch.cat([present, absent]) @ found.directions[block]).std())
        found.accuracy[block] = _held_out(present, absent, method)
    return found


@dataclass(frozen=True)
class Control:
    """Which model speaks, and nothing else: fitted on rows where both agree.

    Attributes:
        offset: [L, d] the variant's mean minus the base's. fitted: the direction from one to the other.
        planes: block → the normal [d] by which they are told apart, and where along it one ends.
    """

    offset: Tensor
    fitted: Fitted
    planes: dict[int, tuple[Tensor, float]]

    @classmethod
    def of(cls, variant: Tensor, base: Tensor, method: Direction, blocks: Sequence[int] | None = None) -> Control:
        """From the activations [n, L, d] of both on the same rows. Raises `InputError` below 20 rows."""
        contrast = Contrast("the control (rows on which base and variant agree)", variant, base)
        fitted = fit(contrast, method, blocks)
        planes = {}
        for block in fitted.directions:
            normal = method.plane(*contrast.at(block))
            planes[block] = (normal, _middle(*contrast.at(block), normal))
        return cls((variant.double() - base.double()).mean(0), fitted, planes)

    def cosines(self, other: Fitted) -> dict[int, float]:
        """Block → cosine of another direction with that of the models."""
        mine = self.fitted.directions
        return {block: float(mine[block] @ one) for block, one in other.directions.items() if block in mine}

    def accuracy(self, variant: Tensor, base: Tensor) -> dict[int, float]:
        """Block → how well the models' own planes alone tell other rows' activations [n, L, d] apart."""
        found = {}
        for block, (normal, middle) in self.planes.items():
            right = [(variant[:, block].double() @ normal > middle), (base[:, block].double() @ normal <= middle)]
            found[block] = float(torch.cat(right).double().mean())
        return found


def _held_out(present: Tensor, absent: Tensor, method: Direction) -> float:
    """Share of rows' activations told apart by planes that were fitted without these rows."""
    parts = np.arange(len(present)) % FOLDS
    right = 0.0
    for fold in range(FOLDS):
        out = torch.from_numpy(parts == fold)
        normal = method.plane(present[~out], absent[~out])
        middle = _middle(present[~out], absent[~out], normal)
        right += float((present[out] @ normal > middle).sum() + (absent[out] @ normal <= middle).sum())
    return right / (2 * len(present))


def _middle(present: Tensor, absent: Tensor, normal: Tensor) -> float:
    return float(((present.mean(0) + absent.mean(0)) / 2) @ normal)
