"""Every method of the PEFT library, by its name there: `peft:ia3`, `peft:adalora`, `peft:prefix_tuning`, ...

Mangrulkar et al., "PEFT: State-of-the-art Parameter-Efficient Fine-Tuning methods", github.com/huggingface/peft. The
settings are those of PEFT's own configuration class for the method, passed on as they are; an unknown name is refused
before the base is loaded. What is stored is a PEFT folder, which PEFT loads with equal outputs, and the other way
round.

Refused: `bias` other than "none" (PEFT then trains the base's own biases in place), methods that rewrite the base
(osf), mix adapters that exist already (xlora) or need a task id with every row (poly, multitask_prompt_tuning).
Initialisers that take factors out of the base's weights are installed beside them (see `peft_initial.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
from pydantic import Field

from pairtune import method
from pairtune.tuners import Tuner

if TYPE_CHECKING:
    from torch import nn

    from pairtune.pair.base import Base
    from pairtune.pair.delta import Delta
    from pairtune.pair.installed import Installed


class Peft(Tuner):
    """A PEFT method with its settings passed through."""

    # Each method some of it.
    provides = frozenset({"tokens", "labels", "masked", "scale", "merge", "identity_at_start"})
    default_lr = 2e-4

    class Settings(method.Settings):
        model_config = pydantic.ConfigDict(extra="allow", frozen=True)
        type: str = Field(description="PEFT's name of the method, such as ia3; written `peft:ia3`")

        @pydantic.model_validator(mode="after")
        def _known_to_peft(self) -> Peft.Settings:
            from pairtune.tuners.peft_config import problems

            if found := problems(self.type, self.passed):
                raise ValueError("; ".join(found))
            return self

        @property
        def passed(self) -> dict[str, Any]:
            """The settings that go to PEFT."""
            return dict(self.__pydantic_extra__ or {})

    settings: Settings

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from pairtune.tuners.peft_config import make_config
        from pairtune.tuners.peft_install import install_peft

        return install_peft(base, pair_model, make_config(base, self.settings.type, self.settings.passed))

    def extract(self, installed: Installed) -> Delta:
        from pairtune.tuners.peft_extract import extract_peft

        return extract_peft(installed)

    def restore(self, base: Base, pair_model: nn.Module, folder: Path, *, allow_partial: bool = False) -> Installed:
        from pairtune.tuners.peft_install import restore_peft

        return restore_peft(base, pair_model, folder, allow_partial=allow_partial)
