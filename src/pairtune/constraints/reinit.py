"""Re-initialise the topmost blocks and the pooler, so that they are learnt anew from the layers below.

Zhang et al., "Revisiting Few-sample BERT Fine-tuning", arXiv 2006.05987; found the best remedy for text similarity with
few examples by Tinn et al., arXiv 2112.07869. The last blocks specialise on pretraining and are a poor start on few
examples. With L blocks and m of them chosen, drawn from the run's seed by the model's own initialiser:

    blocks L−m+1 … L and the pooler:   W ~ N(0, initializer_range²), biases 0, norms 1 and 0

Embeddings never are, nor a head, which is new anyway; a base without a pooler (ELECTRA) has its blocks done alone. The
base is not touched: the new values belong to the delta. 0 blocks leave everything as it is, the pooler too.
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
    """Re-initialised top blocks and pooler. Only for tuners that own their weights; others are refused by name.

    Raises `ConfigError` for more blocks than there are, weights that the tuner does not train, and blocks that another
    constraint has frozen, which could not be learnt anew.
    """

    class Settings(method.Settings):
        blocks: int = Field(1, ge=0, description="how many of the topmost blocks; 0: none, and not the pooler")

    settings: Settings

    def prepare(self, pair: Pair) -> None:
        blocks, count = pair.base.blocks, self.settings.blocks
        if count > len(blocks):
            raise ConfigError([f"blocks: {count} asked for, {pair.base.source} has {len(blocks)}"], "reinit")
        if not count:
            return
        chosen = blocks[-count:] + _pooler(pair)
        for name, module in chosen:
            _check_trained(pair, name, module)
        for name, module in chosen:
            self._initialise(pair, name, module)
        log.info("reinit: %s", ", ".join(name for name, _ in chosen))

    def _initialise(self, pair: Pair, name: str, chosen: torch.nn.Module) -> None:
        before = [parameter.detach().clone() for parameter in chosen.parameters()]
        with torch.no_grad():
            for module in chosen.modules():
                pair.base.model._init_weights(module)
        if all(torch.equal(old, new) for old, new in zip(before, chosen.parameters(), strict=True)):
            raise PairtuneError(f"{type(pair.base.model).__name__} has no initialiser for {name}: its weights stay")
        for parameter in chosen.parameters():
            parameter.reinitialised = True  # type: ignore[attr-defined]  # which the constraint freeze asks for


def _pooler(pair: Pair) -> list[tuple[str, torch.nn.Module]]:
    """The pooler that the base has stored; one that is new with the head is fresh, or was tuned by a stage before."""
    model, prefix = pair.base.model, pair.base.model.base_model_prefix
    places = {"pooler": model, f"{prefix}.pooler": getattr(model, prefix, None)}
    return [
        (name, owner.pooler)
        for name, owner in places.items()
        if isinstance(getattr(owner, "pooler", None), torch.nn.Module)
        and any(True for _ in owner.pooler.parameters())
        and not any(new.startswith(f"{name}.") for new in pair.base.new_names)
    ]


def _check_trained(pair: Pair, name: str, module: torch.nn.Module) -> None:
    own = {id(parameter): parameter for _, parameter in pair.trainable()}
    if not isinstance(pair.top.installed, SwappedParameters) or any(id(p) not in own for p in module.parameters()):
        tuner = pair.top.record.get("tuner") or {}
        raise ConfigError(
            [f"tuner {tuner.get('name', 'in use')} does not train the weights of {name}; use full"], "reinit"
        )
    if not all(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError([f"{name} is frozen by another constraint: random values there would stay random"], "reinit")
