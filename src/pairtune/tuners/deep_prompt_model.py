"""The module of the tuner `deep-prompt`: learnt positions that enter an encoder's blocks and leave them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pairtune.errors import InputError
from pairtune.pair.modality import TEXT
from pairtune.tuners.beside import Beside, InstalledBeside

if TYPE_CHECKING:
    from pairtune.pair.base import Base


class Prompts(nn.Module):
    """[blocks, prompts, width] learnt positions."""

    def __init__(self, blocks: int, prompts: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(blocks, prompts, width))
        for block in self.weight:
            nn.init.xavier_uniform_(block)


class PromptedModel(Beside):
    """The base, whose blocks read and drop the prompts while it is active."""

    side: Prompts

    def __init__(self, base: Base, call: nn.Module, side: Prompts):
        super().__init__(base, call, side)
        blocks = [block for _, block in base.blocks]
        every = len(side.weight) == len(blocks)
        for i, block in enumerate(blocks):
            enters = every or i == 0
            block.register_forward_pre_hook(self._enter(i if enters else None), with_kwargs=True)
            if every or i == len(blocks) - 1:
                block.register_forward_hook(self._leave)

    def _enter(self, place: int | None):
        """A hook that adds the prompts of a place (None: they are there already) and lets attention see them."""

        def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
            if not self.active:
                return None
            count = self.side.weight.shape[1]
            named = "hidden_states" in kwargs
            hidden = kwargs["hidden_states"] if named else args[0]
            length = hidden.shape[1] - (count if place is None else 0)
            if place is not None:
                prompts = self.side.weight[place].to(hidden.dtype).expand(len(hidden), -1, -1)
                hidden = torch.cat([hidden, prompts], 1)
            others = [_seen(one, length, count) for one in (args if named else args[1:])]
            kwargs = {name: _seen(one, length, count) for name, one in kwargs.items() if name != "hidden_states"}
            return (tuple(others), kwargs | {"hidden_states": hidden}) if named else ((hidden, *others), kwargs)

        return hook

    def _leave(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        if not self.active:
            return None
        count = self.side.weight.shape[1]
        if isinstance(output, tuple):
            return (output[0][:, :-count], *output[1:])
        return output[:, :-count]


def _seen(value: Any, length: int, count: int) -> Any:
    """An attention mask [B, 1, 1 or T, T] or [B, T] with room for the prompts, which all may see; else as it is.

    The prompts see what any position sees.
    """
    if not isinstance(value, Tensor) or value.ndim not in (2, 4) or value.shape[-1] != length:
        return value
    additive = value.is_floating_point() and value.ndim == 4
    wide = F.pad(value, (0, count), value=0 if additive else 1)
    if value.ndim == 2 or value.shape[-2] != length:
        return wide
    rows = wide.any(-2, keepdim=True) if wide.dtype == torch.bool else wide.amax(-2, keepdim=True)
    return torch.cat([wide, rows.expand(-1, -1, count, -1)], -2)


def check_blocks(base: Base, installed: InstalledBeside) -> None:
    """Refuse a text encoder whose blocks know how long their input is; those of images and sound do not."""
    if base.modality is not TEXT:
        return
    ids = torch.ones((2, 3), dtype=torch.long, device=base.device)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]], device=base.device)
    try:
        with torch.no_grad():
            installed.model(input_ids=ids, attention_mask=mask)
    except (RuntimeError, TypeError, IndexError) as error:
        installed.off()
        raise InputError(
            f"tuner deep-prompt: the blocks of {base.source} take the places of their tokens (rotary or relative "
            "positions), so that learnt ones have no place there; take lora or adapter"
        ) from error
