"""One configuration tuned in several variations (learning rates, seeds), each in a place of its own beside `out`.

What a stopped call has finished is kept, and what it was at continues where it was: the same call goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pairtune.errors import NonFiniteError
from pairtune.training.config import RunConfig
from pairtune.training.run import tune
from pairtune.training.signals import Stopped

log = logging.getLogger("pairtune")
Key = TypeVar("Key", int, float)


@dataclass(frozen=True)
class Outcome:
    """What one variation came to: the record of its last stage's delta, or why it met NaN."""

    record: dict[str, Any]
    broke: str | None = None

    @property
    def training(self) -> dict[str, Any]:
        """Metrics, losses and the rest that training recorded; empty for a run that broke off."""
        return self.record.get("training", {})

    @property
    def value(self) -> float | None:
        """The deciding metric on validation; None for a run that broke off."""
        return None if self.broke else self.training["metrics"][f"validation {self.training['metric']}"]


def tune_each(config: RunConfig, what: str, places: Mapping[Key, Path]) -> Iterator[tuple[Key, Outcome]]:
    """Tune `config` in one variation after another, each saved at its place; yields each as it is done.

    Args:
        what: "seed" or "lr": the setting that varies; `places` has its values in order.

    Nothing is pushed to the hub. Raises `Stopped` after Ctrl-C or SIGTERM.
    """
    for done, (value, place) in enumerate(places.items()):
        log.info("%s %g (%d of %d)", what, value, done + 1, len(places))
        try:
            record = tune(_with(config, what, value, place), resume=True).top.record
        except NonFiniteError as error:
            yield value, Outcome({}, str(error))
            continue
        except Stopped as stop:
            stop.args = (f"stopped in {what} {value:g}, {done} of {len(places)} done; the same command goes on there",)
            raise
        yield value, Outcome(record)


def _with(config: RunConfig, what: str, value: float, out: Path) -> RunConfig:
    own = {"push_to_hub": None, **({} if what == "seed" else {what: value})}
    seed = {"seed": value} if what == "seed" else {}
    return config.model_copy(update={"training": config.training.model_copy(update=own), "out": str(out), **seed})
