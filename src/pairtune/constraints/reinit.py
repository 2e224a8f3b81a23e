"""Re-initialise the topmost blocks, so that they are learnt anew from the layers below.

Zhang et al., "Revisiting Few-sample BERT Fine-tuning", arXiv 2006.05987: the last blocks specialise on pretraining and
are a poor start on few examples. The blocks' weights are drawn by the model's own initialiser, from the run's seed. The
base is not touched: the new values belong to the delta. Departure: the pooler is left as it is.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from pairtune import method
from pairtune.constraints import Constraint
from pairtune.errors import ConfigError, PairtuneError
from pairtune.pair.installed import SwappedParameters

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")


class Reinit(Constraint):
    """Re-initialised top blocks. Only for tuners that own those blocks' weights; others are refused by name."""

    class Settings(method.Settings):
        blocks: int = Field(1, ge=1, description="how many of the topmost blocks")

    settings: Settings

    def prepare(self, pair: Pair) -> None:
        blocks, count = pair.base.blocks, self.settings.blocks
        installed = pair.top.installed
        if count > len(blocks):
            raise ConfigError([f"blocks: {count} asked for, {pair.base.source} has {len(blocks)}"], "reinit")
        own = {id(parameter) for _, parameter in pair.trainable()}
        for name, block in blocks[-count:]:
            if not isinstance(installed, SwappedParameters) or any(id(p) not in own for p in block.parameters()):
                tuner = pair.top.record.get("tuner") or {}
                raise ConfigError(
                    [f"tuner {tuner.get('name', 'in use')} does not train the weights of {name}; use full"],
                    "reinit",
                )
            self._initialise(pair, name, block)
        log.info("reinit: %s", ", ".join(name for name, _ in blocks[-count:]))

    def _initialise(self, pair: Pair, name: str, block: torch.nn.Module) -> None:
        before = [parameter.detach().clone() for parameter in block.parameters()]
        with torch.no_grad():
            for module in block.modules():
                pair.base.model._init_weights(module)
        if all(torch.equal(old, new) for old, new in zip(before, block.parameters(), strict=True)):
            raise PairtuneError(f"{type(pair.base.model).__name__} has no initialiser for {name}: its weights stay")
