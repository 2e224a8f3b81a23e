"""What can be set of an edit, and what does not go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic import Field

from pairtune import method as methods
from pairtune.editing.locft.ways import EPOCHS, way
from pairtune.errors import ConfigError
from pairtune.method import problems_of


class Settings(methods.Settings):
    """How facts are edited."""

    method: str = Field("locft-bf", description="locft-bf, bf, df, ft-l, full or lora")
    at: str | None = Field(None, description="block and module, as 22:mlp.down_proj; by default a rule")
    lr: float | None = Field(None, gt=0, description="learning rate of Adam; by default the method's")
    batch_size: int | None = Field(None, ge=1, description="edits of a step; by default the method's")
    epochs: int = Field(EPOCHS, ge=1, description="most passes over all edits; depth-first, most steps on one edit")
    updates: int | None = Field(None, ge=1, description="most gradients of single edits; by default no limit")
    seed: int = Field(0, ge=0, description="decides the order of the edits")

    @pydantic.model_validator(mode="after")
    def _fit(self) -> Settings:
        chosen = way(self.method)
        if chosen.tuner == "full" and self.at is not None:
            raise ValueError("method full tunes all weights; leave at out, or take another method")
        if chosen.batch_size == 1 and self.batch_size not in (None, 1):
            raise ValueError(f"method {self.method} takes one edit a step; leave batch_size out, or take locft-bf")
        return self


def settings_of(given: Mapping[str, Any]) -> Settings:
    """The settings. Raises `ConfigError` with every wrong one, `InputError` for an unknown method."""
    try:
        return Settings(**given)
    except pydantic.ValidationError as error:
        raise ConfigError(problems_of(error, model=Settings), "edit") from None
