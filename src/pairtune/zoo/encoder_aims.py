"""What the zoo's encoders tell of an item besides its class: how it looks, coarsely, and which way its edges run.

A class is one number an item, from which a transformer learns little in the few items that one core can show it. So its
class token is also to say, by a linear map, the item's coarse picture and its histograms of oriented gradients, which
"Masked Feature Prediction" (Wei et al., arXiv 2112.09133) found to be good aims: both of the item before it was put on
a ground, coloured or hidden in noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

DIRECTIONS, CELL = 8, 4


def aims(clean: Tensor) -> Tensor:
    """[n, (h/2) (w/2) + 8 (h/4) (w/4)] of pictures or spectrograms [n, 1, h, w] of 0 to 1, all of about unit spread."""
    coarse = (F.avg_pool2d(clean, 2) - 0.15) / 0.28
    return torch.cat([coarse.flatten(1), ((edges(clean) - 0.15) / 0.25).flatten(1)], 1)


def count_of(height: int, width: int) -> int:
    """How many aims an item of this size has."""
    return (height // 2) * (width // 2) + DIRECTIONS * (height // CELL) * (width // CELL)


def edges(clean: Tensor) -> Tensor:
    """[n, 8, h/4, w/4]: per cell of 4 x 4, the edges of each direction, compared with all in the cells around."""
    wide = F.pad(clean, (1, 1, 1, 1), mode="replicate")
    across, down = wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2], wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]
    strength = (across.square() + down.square()).sqrt()
    direction = torch.atan2(down, across) % math.pi * (DIRECTIONS / math.pi)  # an edge from either side is one
    apart = (direction - torch.arange(DIRECTIONS)[None, :, None, None]).abs()
    near = (1 - torch.minimum(apart, DIRECTIONS - apart)).clamp_min(0)
    cells = F.avg_pool2d(near * strength, CELL)
    around = F.avg_pool2d(cells.square().sum(1, keepdim=True), 3, 1, 1).sqrt()
    return cells / (around + 0.05)
