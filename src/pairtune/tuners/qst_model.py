"""The side network of the tuner `qst` on a base: where it taps the base, and where it comes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pairtune.pair.names import blocks
from pairtune.tuners.beside import Climbing, InstalledBeside, install_beside
from pairtune.tuners.qst_side import Side, side_cache

if TYPE_CHECKING:
    from pairtune.pair.base import Base

_GIVEN = ("attention_mask", "position_ids")


class QstModel(Climbing):
    """The base, tapped block by block; each output is narrowed at once, so that no other of them is kept.

    A causal model is mixed behind its final norm, an encoder at its last block's output. A pass in which the blocks do
    not run (the head alone, on hidden states that are mixed already) is left as it is.
    """

    side: Side

    def __init__(self, base: Base, call: nn.Module, side: Side):
        super().__init__(base, call, side)
        self._start = torch.empty(0)
        self._rungs: list[Tensor] = []
        self._given: dict[str, Any] = {}
        self._mixes_last = base.family != "causal"
        backbone: Any = base.model.base_model
        backbone.register_forward_pre_hook(self._begin, with_kwargs=True)
        if not self._mixes_last:
            backbone.register_forward_hook(self._leave)

    def _begin(self, _module: nn.Module, _args: tuple, kwargs: dict[str, Any]) -> None:
        self._rungs = []
        self._given = {name: kwargs[name] for name in _GIVEN if kwargs.get(name) is not None}

    def enter(self, hidden: Tensor) -> None:
        self._start = self._narrow(0, hidden)

    def rung(self, i: int, hidden: Tensor) -> Tensor | None:
        self._rungs.append(self._narrow(i, hidden))
        return self._mixed(hidden) if self._mixes_last and len(self._rungs) == self.depth else None

    def _narrow(self, i: int, hidden: Tensor) -> Tensor:
        return self.side.down[i](hidden.detach().to(self.side.mix.dtype))

    def _leave(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        if not self.active or len(self._rungs) != self.depth:
            return None
        if getattr(output, "past_key_values", None) is not None:
            config: Any = self.side.net.config
            own = side_cache(output.past_key_values, self.depth, config)
            self._given |= {"past_key_values": own, "use_cache": True}
        output.last_hidden_state = self._mixed(output.last_hidden_state)
        return output

    def _mixed(self, hidden: Tensor) -> Tensor:
        rungs, self._rungs = self._rungs, []
        return self.side.mixed(self.side(self._start, rungs, **self._given), hidden.detach())


def install_qst(base: Base, call: nn.Module, reduction: int, down: str, rank: int, gate: str) -> InstalledBeside:
    """Make the side network for a base and tap the blocks; a new head trains beside it."""
    side = Side(base, reduction, down, rank, gate).to(base.device)
    _freeze_unused(side)
    view = "labels" if base.family == "encoder" else "tokens"
    start = {"identity_at_start"} if gate == "free" else set()
    return install_beside(base, call, lambda: QstModel(base, call, side), {view} | start)


def _freeze_unused(side: Side) -> None:
    """The narrow model's embeddings (and a pooler) play no part: what a pass gives no gradient does not train."""
    narrow = side.gates.shape[1]
    like = torch.zeros(1, 2, narrow, device=side.gates.device)
    with torch.enable_grad():
        side(like, [like] * len(blocks(side.net))).sum().backward()
    for parameter in side.net.parameters():
        parameter.requires_grad_(parameter.grad is not None)
    side.zero_grad(set_to_none=True)
