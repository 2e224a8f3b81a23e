"""Keep parts of the base as they are: embeddings, the lowest blocks, norms, or parameters by pattern.

Works with any tuner: the tuner's parameters that sit in the frozen parts do not train, are unknown to the optimizer,
and the modules that hold nothing else run without dropout. Freezing the lower layers is the remedy that Tinn et al.,
"Fine-Tuning Large Neural Language Models for Biomedical Natural Language Processing", arXiv 2112.07869, found to help
base-size BERT on few examples; that half of the blocks is the usual choice is not verified.
"""

from __future__ import annotations

import logging
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from pairtune import method
from pairtune.constraints import Constraint
from pairtune.constraints.places import Places
from pairtune.errors import ConfigError
from pairtune.pair.names import norm_parameters

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")


class Freeze(Constraint):
    """Parameters that do not train.

    Raises `ConfigError` where nothing was chosen, a choice matches nothing, nothing is left to train, or another
    constraint has re-initialised what is to be kept as it is. 0 blocks, said by name, are a choice: nothing is frozen.
    """

    class Settings(method.Settings):
        embeddings: bool = Field(False, description="freeze the embeddings and whatever else feeds the first block")
        blocks: int | Literal["half"] = Field(
            0, description="freeze this many of the lowest blocks, or half of them (rounded down)"
        )
        norms: bool = Field(False, description="freeze the weights and biases of all normalisation layers")
        pattern: str | None = Field(None, description="freeze the parameters whose name matches, e.g. '*.attention.*'")

        @field_validator("blocks", mode="before")
        @classmethod
        def _count_or_half(cls, value: Any) -> Any:
            # One sentence in place of one for each member of the union.
            if value == "half" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
                return value
            raise ValueError("expected a number of blocks, 0 or more, or half")

    settings: Settings

    def prepare(self, pair: Pair) -> None:
        chosen = self._chosen(pair)
        trainable = pair.trainable()
        if fresh := [name for name, p in trainable if name in chosen and getattr(p, "reinitialised", False)]:
            raise ConfigError(
                [f"{fresh[0]} was re-initialised by another constraint: random values there would stay random"],
                "freeze",
            )
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
        count = len(places.blocks) // 2 if settings.blocks == "half" else settings.blocks
        if count > len(places.blocks):
            raise ConfigError([f"blocks: {count} asked for, {pair.base.source} has {len(places.blocks)}"], "freeze")
        choices: dict[str, set[str]] = {}
        if settings.embeddings:
            choices["embeddings"] = {name for name in names if places.depth(name) == 0}
        if count:
            choices["blocks"] = {name for name in names if 1 <= places.depth(name) <= count}
        if settings.norms:
            norms = norm_parameters(pair.base.model)
            if not norms:
                raise ConfigError([f"norms: {pair.base.source} has no normalisation layers"], "freeze")
            choices["norms"] = {name for name in names if any(f".{name}".endswith(f".{norm}") for norm in norms)}
        if settings.pattern is not None:
            choices["pattern"] = {name for name in names if fnmatchcase(name, settings.pattern)}
        if not choices and "blocks" not in settings.model_fields_set:
            raise ConfigError(["choose what to freeze: embeddings, blocks, norms or pattern"], "freeze")
        empty = [
            f"{choice}: no trainable tensor of this tuner matches (the first is {names[0]})"
            for choice, matching in choices.items()
            if not matching and choice != "norms"  # which a tuner may leave out by itself
        ]
        if empty:
            raise ConfigError(empty, "freeze")
        return set().union(*choices.values())
