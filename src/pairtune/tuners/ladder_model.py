"""The side network of the tuner `ladder`, its wiring into a base's blocks, and its switch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pairtune.tuners.beside import Climbing, InstalledBeside, install_beside

if TYPE_CHECKING:
    from pairtune.pair.base import Base

_TEMPERATURE = 0.1  # of the gates, as in the paper


class SideNetwork(nn.Module):
    """The rungs and the narrow blocks.

    Args:
        blocks: L, number of the base's blocks. width: d, the base's. narrow: width of the side network.
    """

    def __init__(self, blocks: int, width: int, narrow: int, dropout: float):
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(width, narrow) for _ in range(blocks + 1))
        self.blocks = nn.ModuleList(_SideBlock(narrow, dropout) for _ in range(blocks))
        self.gates = nn.Parameter(torch.zeros(blocks))
        self.norm = nn.LayerNorm(narrow)
        self.up = nn.Linear(narrow, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def start(self, hidden: Tensor) -> Tensor:
        """s_0 [B, T, narrow] from what enters the first block [B, T, d]."""
        return self.down[0](hidden.to(self.up.weight.dtype))

    def step(self, i: int, hidden: Tensor, side: Tensor) -> Tensor:
        """s_i from the output of block i (1-based) and s_{i-1}."""
        gate = torch.sigmoid(self.gates[i - 1] / _TEMPERATURE)
        rung = self.down[i](hidden.to(self.up.weight.dtype))
        return self.blocks[i - 1](gate * rung + (1 - gate) * side)

    def finish(self, side: Tensor) -> Tensor:
        """What is added to the last block's output, [B, T, d]."""
        return self.up(self.norm(side))


class _SideBlock(nn.Module):
    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(F.gelu(self.up(self.norm(x)))))


class LadderModel(Climbing):
    """The base with the ladder beside it; the last block's output is changed."""

    side: SideNetwork
    _climb: Tensor

    def enter(self, hidden: Tensor) -> None:
        self._climb = self.side.start(hidden)

    def rung(self, i: int, hidden: Tensor) -> Tensor | None:
        self._climb = self.side.step(i + 1, hidden, self._climb)
        if i < self.depth - 1:
            return None
        climb, self._climb = self._climb, torch.empty(0)  # its graph is not kept until the next pass
        return hidden + self.side.finish(climb).to(hidden.dtype)


def install_ladder(base: Base, call: nn.Module, reduction: int, dropout: float) -> InstalledBeside:
    """Make the side network for a base and tap the blocks; a new head trains beside it."""
    narrow = max(base.hidden_size // reduction, 1)
    side = SideNetwork(len(base.blocks), base.hidden_size, narrow, dropout).to(base.device)
    view = "labels" if base.family == "encoder" else "tokens"
    return install_beside(base, call, lambda: LadderModel(base, call, side), {view, "identity_at_start"})
