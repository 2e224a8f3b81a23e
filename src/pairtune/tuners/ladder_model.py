"""The side network of the tuner `ladder`, its wiring into a base's blocks, and its switch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pairtune.tuners.beside import Beside, InstalledBeside, install_beside

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


class LadderModel(Beside):
    """The base, its blocks tapped while it runs; the last one's output is changed."""

    side: SideNetwork

    def __init__(self, base: Base, call: nn.Module, side: SideNetwork):
        super().__init__(base, call, side)
        self._climb: Tensor | None = None
        blocks = [block for _, block in base.blocks]
        blocks[0].register_forward_pre_hook(self._enter, with_kwargs=True)
        for i, block in enumerate(blocks, start=1):
            block.register_forward_hook(self._rung(i, last=i == len(blocks)))

    def _enter(self, _module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self.active:
            self._climb = self.side.start(args[0] if args else kwargs["hidden_states"])

    def _rung(self, i: int, last: bool):
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            if not self.active:
                return None
            hidden = output[0] if isinstance(output, tuple) else output
            assert self._climb is not None
            self._climb = self.side.step(i, hidden, self._climb)
            if not last:
                return None
            changed = hidden + self.side.finish(self._climb).to(hidden.dtype)
            self._climb = None
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook


def install_ladder(base: Base, call: nn.Module, reduction: int, dropout: float) -> InstalledBeside:
    """Make the side network for a base and tap the blocks; a new head trains beside it."""
    narrow = max(base.hidden_size // reduction, 1)
    side = SideNetwork(len(base.blocks), base.hidden_size, narrow, dropout).to(base.device)
    view = "labels" if base.family == "encoder" else "tokens"
    return install_beside(base, call, lambda: LadderModel(base, call, side), {view, "identity_at_start"})
