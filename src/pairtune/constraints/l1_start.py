"""Absolute distance to the start as a penalty, which keeps most entries where they are.

Ansell et al., "Composable Sparse Fine-Tuning for Cross-Lingual Transfer", arXiv 2110.07560, which use it with weight
0.1 for languages and not for tasks: what hardly helps should not move, so that fewer entries say more.

    penalty = weight / N · Σ_p |p − p0|        p: trained parameters of the base, p0: where this stage began,
                                              N: number of the base's parameters, trained or not

A new head has no start to be near to and is left out. In the optimizer step it counts once, however many batches the
step has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from pairtune import method
from pairtune.constraints import Constraint
from pairtune.errors import ConfigError
from pairtune.pair.installed import SwappedParameters

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.outputs import Outputs
    from pairtune.pair.pair import Pair


class L1Start(Constraint):
    """Penalty on the sum of the delta's absolute values. Refuses tuners that do not tune the base's own weights."""

    class Settings(method.Settings):
        weight: float = Field(0.1, ge=0, description="weight of the mean absolute distance")

    settings: Settings

    def prepare(self, pair: Pair) -> None:
        if not isinstance(pair.top.installed, SwappedParameters):
            tuner = (pair.top.record.get("tuner") or {}).get("name", "in use")
            raise ConfigError(
                [f"l1-start: the tuner {tuner} does not tune the base's own weights; use full, sparse or bitfit"],
                "constraints",
            )

    def penalty(self, pair: Pair, batch: dict[str, Any], out: Outputs) -> Tensor:
        installed = pair.top.installed
        assert isinstance(installed, SwappedParameters)
        total = torch.zeros((), device=pair.base.device)
        for name, parameter in pair.trainable():
            if parameter.requires_grad and name not in pair.base.new_names:
                total = total + (parameter - installed.originals[name]).abs().sum(dtype=torch.float32)
        return self.settings.weight * total / sum(p.numel() for p in pair.base.parameters.values())
