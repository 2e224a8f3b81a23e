"""The side network of the tuner `ladder`, its wiring into a base's blocks, and its switch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pairtune.pair.installed import Installed, SwappedParameters
from pairtune.tuners.dense import InstalledDense

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


class LadderModel(nn.Module):
    """The base, its blocks tapped while it runs; the last one's output is changed."""

    def __init__(self, base: Base, call: nn.Module, side: SideNetwork):
        super().__init__()
        self.base_model, self.side = call, side
        self.config = base.model.config
        self._climb: Tensor | None = None
        blocks = [block for _, block in base.blocks]
        self._active = False
        blocks[0].register_forward_pre_hook(self._enter, with_kwargs=True)
        for i, block in enumerate(blocks, start=1):
            block.register_forward_hook(self._rung(i, last=i == len(blocks)))

    def forward(self, **inputs: Any) -> Any:
        """The base's own output, with the side network's contribution."""
        self._active = True
        try:
            return self.base_model(**inputs)
        finally:
            self._active, self._climb = False, None

    def _enter(self, _module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self._active:
            self._climb = self.side.start(args[0] if args else kwargs["hidden_states"])

    def _rung(self, i: int, last: bool):
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            if not self._active:
                return None
            hidden = output[0] if isinstance(output, tuple) else output
            assert self._climb is not None
            self._climb = self.side.step(i, hidden, self._climb)
            if not last:
                return None
            changed = hidden + self.side.finish(self._climb).to(hidden.dtype)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook


class InstalledLadder(Installed):
    """A ladder on a base. It works only inside its own forward, so that off needs nothing but the head's exchange."""

    def __init__(self, model: LadderModel, provides: Iterable[str], head: SwappedParameters | None):
        super().__init__(model, provides)
        self._head = head
        side = [(f"side.{name}", parameter) for name, parameter in model.side.named_parameters()]
        self._trainable = [*side, *(head.trainable() if head else [])]

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        return list(self._trainable)

    def on(self) -> None:
        if self._head:
            self._head.on()

    def off(self) -> None:
        if self._head:
            self._head.off()

    def first_changed(self) -> int:
        # The last block's output is the first to differ, but the rungs need every block's own: none may be skipped.
        return 0


def install_ladder(base: Base, call: nn.Module, reduction: int, dropout: float) -> InstalledLadder:
    """Make the side network for a base and tap the blocks; a new head trains beside it."""
    call.requires_grad_(False)
    head = InstalledDense(base, sorted(base.new_names), (), call) if base.new_names else None
    narrow = max(base.hidden_size // reduction, 1)
    side = SideNetwork(len(base.blocks), base.hidden_size, narrow, dropout).to(base.device)
    view = "labels" if base.family == "encoder" else "tokens"
    return InstalledLadder(LadderModel(base, call, side).eval(), {view, "identity_at_start"}, head)
