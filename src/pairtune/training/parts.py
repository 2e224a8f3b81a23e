"""Small things that the loop is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pairtune.training.random_state import RandomState
from pairtune.training.sums import Sums

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair


@dataclass
class StepStart:
    """What it takes to undo a step that failed before the optimizer moved."""

    random: RandomState
    loss: Tensor
    sums: Sums


class Sized(torch.utils.data.Dataset):
    """Tells the Trainer how many rows there are; our loader reads them."""

    def __init__(self, rows: int):
        self._rows = rows

    def __len__(self) -> int:
        return self._rows


def frozen_modules(pair: Pair) -> list[nn.Module]:
    """Modules that stay in evaluation mode: what the delta names, what holds nothing that trains, and all inside."""
    installed = pair.top.installed
    still = [m for m in installed.model.modules() if any(True for _ in m.parameters()) and not _trains(m)]
    outer = [*installed.frozen_modules(), *still]
    return list({id(inner): inner for module in outer for inner in module.modules()}.values())


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
