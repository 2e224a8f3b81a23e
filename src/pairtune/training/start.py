"""Tuning that begins at a pair: its top delta is the first value of the new one, which is measured against the base.

With `start`, W = W0 + Δ begins at the start pair's Δ instead of at 0, and the reference stays what lies below that
delta: the base, or the stack's lower deltas. A delta that was moved to a newer base is so tuned on there (recycled),
and what comes out of it can be moved again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.errors import BaseMismatch, InputError
from pairtune.pair import hub
from pairtune.pair.disk import read_json

if TYPE_CHECKING:
    from pairtune.data import Task
    from pairtune.pair.base import Base
    from pairtune.pair.installed import Installed
    from pairtune.pair.pair import Layer, Pair
    from pairtune.training.config import Choice
    from pairtune.tuners import Tuner

log = logging.getLogger("pairtune")
CARD = "pair.json"  # `card.CARD_FILE`, whose file needs torch


def defaults(start: str) -> dict[str, Any]:
    """What a run takes from its start pair where it says nothing itself: the base, and the tuner with its settings.

    Raises `InputError` where there is no pair.
    """
    card = _card(start)
    tuner = card["stack"][-1].get("tuner") if card.get("stack") else None
    about = card["base"]
    given = {"base": about["source"], "revision": about.get("revision"), "quantize": about.get("quantize")}
    return {**given, "tuner": tuner or {"name": "full"}}


def digest(start: str) -> str:
    """What the start pair is, by the hashes of its deltas' files."""
    hashes = [sorted(layer.get("files", {}).items()) for layer in _card(start).get("stack", [])]
    return hashlib.sha256(repr(hashes).encode()).hexdigest()


def open_start(start: str, base: Base, task: Task) -> Pair:
    """The start pair on the run's base. Raises `InputError` where it is no pair for this base and task."""
    from pairtune.pair.pair import Pair

    try:
        pair = Pair.load(start, base)
    except BaseMismatch as error:
        raise BaseMismatch(f"{error} here; move it first: pairtune rebase {start} --onto {base.source}") from None
    known = (pair.card.task or {}) if pair.card else {}
    if base.family == "encoder" and known.get("labels") and list(known["labels"]) != list(task.labels):
        raise InputError(
            f"start: {start} has a head for the labels {', '.join(known['labels'][:5])}, the task "
            f"{', '.join(task.labels[:5]) or 'none'}; the order counts, too"
        )
    return pair


def begin(tuner: Tuner, choice: Choice, pair: Pair, first: Layer) -> Installed:
    """What trains: the start pair's top delta itself where the same tuner made it, else another that has its values.

    Args:
        first: the start pair's top delta, taken off.

    Raises `InputError` where the tuner has other settings than the delta was made with, or cannot hold it.
    """
    made = made_by(first, choice)
    if made is None:
        return tuner.start(pair.base, pair.model, first.delta())
    for name, value in choice.settings.items():
        if made.get(name, value) != value:
            raise InputError(f"tuner.{name}: the delta to start from was made with {made[name]}, not with {value}")
    first.installed.on()
    return first.installed


def made_by(first: Layer, choice: Choice) -> dict[str, Any] | None:
    """The tuner with its settings that made a delta; None where it is another one than is chosen now."""
    made = first.record.get("tuner")
    return made if made is not None and made["name"] == choice.name else None


def _card(start: str) -> Mapping[str, Any]:
    folder = hub.local_folder(start)
    if not (folder / CARD).is_file():
        raise InputError(f"start: {start} is no pair (no {CARD} is there); Pair.load(...).save(...) makes one")
    card = read_json(Path(folder) / CARD)
    if not isinstance(card.get("base"), dict) or not isinstance(card.get("stack"), list):
        raise InputError(f"start: {start}: its {CARD} names no base or stack; it is damaged, or newer than this")
    return card
