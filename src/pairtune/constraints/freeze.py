"""Keep parts of the base as they are: embeddings, the lowest blocks, or parameters by pattern.

Works with any tuner: the tuner's parameters that sit in the frozen parts do not train.
"""

from __future__ import annotations

import logging
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pydantic import Field

from pairtune import method
from pairtune.constraints import Constraint
from pairtune.constraints.places import Places
from pairtune.errors import ConfigError

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")


class Freeze(Constraint):
    """Parameters that do not train. Raises `ConfigError` where a choice matches nothing or nothing is left to train."""

    class Settings(method.Settings):
        embeddings: bool = Field(False, description="freeze the embeddings and whatever else feeds the first block")
        blocks: int = Field(0, ge=0, description="freeze this many of the lowest blocks")
        pattern: str | None = Field(None, description="freeze the parameters whose name matches, e.g. '*.attention.*'")

    settings: Settings

    def prepare(self, pair: Pair) -> None:
        chosen = self._chosen(pair)
        trainable = pair.trainable()
        for name, parameter in trainable:
            if name in chosen:
                parameter.requires_grad_(False)
        left = sum(parameter.requires_grad for _, parameter in trainable)
        if left == 0:
            raise ConfigError([f"all {len(trainable)} trainable tensors are frozen: nothing is left to tune"], "freeze")
        log.info("freeze: %d of %d tensors frozen", len(chosen), len(trainable))

    def _chosen(self, pair: Pair) -> set[str]:
        """Names to freeze; every choice that was made must match something."""
        settings, places = self.settings, Places(pair)
        names = [name for name, _ in pair.trainable()]
        if settings.blocks > len(places.blocks):
            raise ConfigError(
                [f"blocks: {settings.blocks} asked for, {pair.base.source} has {len(places.blocks)}"], "freeze"
            )
        choices: dict[str, set[str]] = {}
        if settings.embeddings:
            choices["embeddings"] = {name for name in names if places.depth(name) == 0}
        if settings.blocks:
            choices["blocks"] = {name for name in names if 1 <= places.depth(name) <= settings.blocks}
        if settings.pattern is not None:
            choices["pattern"] = {name for name in names if fnmatchcase(name, settings.pattern)}
        if not choices:
            raise ConfigError(["choose what to freeze: embeddings, blocks or pattern"], "freeze")
        empty = [
            f"{choice}: no trainable tensor of this tuner matches (the first is {names[0]})"
            for choice, matching in choices.items()
            if not matching
        ]
        if empty:
            raise ConfigError(empty, "freeze")
        return set().union(*choices.values())
