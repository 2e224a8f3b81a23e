"""Edits put on a pair: the place, the tuner, the loop, and the proof that something moved."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import set_seed

from pairtune import registry
from pairtune.data.fact_tokens import FactTokens
from pairtune.editing.locft.batches import EditBatches
from pairtune.editing.locft.loop import Loop
from pairtune.editing.locft.optimizer import Master
from pairtune.editing.locft.run import run
from pairtune.editing.locft.ways import WHOLE_BLOCK_LR, Way, way
from pairtune.errors import InputError
from pairtune.pair.card import library_versions
from pairtune.pair.pair import Layer
from pairtune.training.feeds import longest_input
from pairtune.training.proofs import digest, prove_delta
from pairtune.tuners.located import linear_at, usual_place

if TYPE_CHECKING:
    from pairtune.data.facts import Facts
    from pairtune.editing.locft.settings import Settings
    from pairtune.pair.installed import Installed
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")


def apply(pair: Pair, facts: Facts, chosen: Settings, work: Path) -> None:
    """Put the edits on the pair as its top delta; where that fails, the pair is as it was.

    Args:
        work: folder for checkpoints; what a stopped run of the same settings left there is continued.

    Raises as `edit`.
    """
    how = way(chosen.method)
    pairs = FactTokens(pair.tokenizer, longest_input(pair.base)).pairs(facts)
    place, name, values = _place(pair, chosen, how)
    set_seed(chosen.seed)  # LoRA's first values
    tuner = registry.build("tuners", name, values)
    installed = tuner.install(pair.base, pair.model)
    record: dict[str, Any] = {"tuner": {"name": name, **values}, "training": {}}
    pair.push(Layer(installed, lambda: tuner.extract(installed), record))
    pair.model.eval()  # dropout off: the same run twice is the same delta
    try:
        record["training"] = _trained(pair, EditBatches(pair, pairs), facts, chosen, how, place, work)
    except BaseException:
        pair.pop()
        raise


def _trained(
    pair: Pair, batches: EditBatches, facts: Facts, chosen: Settings, how: Way, place: str | None, work: Path
) -> dict[str, Any]:
    """Train the top delta; what the card says of it."""
    installed, size = pair.top.installed, min(chosen.batch_size or how.batch_size, len(facts))
    if chosen.updates is not None and chosen.updates < size:
        raise InputError(f"updates: a step has {size} edits, more than {chosen.updates} updates allow")
    lr = chosen.lr or _usual_rate(installed, how)
    settings = {**chosen.model_dump(), "at": place, "lr": lr, "batch_size": size}
    identity = _identity(pair, facts, settings)
    loop = Loop(
        batches,
        Master(installed, lr, how.bound),
        len(facts),
        depth_first=how.depth_first,
        batch_size=size,
        epochs=chosen.epochs,
        most=chosen.updates,
        seed=chosen.seed,
        where=lambda i: facts[i].place,
    )
    where = f"at {place}" if place else "everywhere"
    log.info("%d edits, %s, %s: %s numbers, rate %g", len(facts), how.about, where, f"{installed.count():,}", lr)
    before = digest(installed.state())
    state = run(loop, work, identity)
    if not state.steps:
        raise InputError(f"nothing was changed: the model says all {len(facts)} targets already, with their ends")
    prove_delta(pair, before, batches.inputs([0]))
    return {
        **settings,
        "steps": state.steps,
        "skipped": state.skipped,
        "updates": state.updates,
        "losses": state.curve,
        "ended": state.ended,
        "seconds": round(state.seconds, 2),
        "edits": len(facts),
        "identity": identity,
    }


def _place(pair: Pair, chosen: Settings, how: Way) -> tuple[str | None, str, dict[str, Any]]:
    """Where the delta lives: the place in words, the tuner's name and its settings."""
    if how.tuner == "full":
        return None, "full", {}
    place = chosen.at or usual_place(pair.base)
    if how.tuner == "lora":
        return place, "lora", {"targets": linear_at(pair.base, place)}
    return place, "located", {"at": place}


def _usual_rate(installed: Installed, how: Way) -> float:
    """The method's rate; where it is meant for one matrix and several train, a tenth of it."""
    several = sum(parameter.ndim > 1 for _, parameter in installed.trainable()) > 1
    return min(how.lr, WHOLE_BLOCK_LR) if several and how.tuner == "located" else how.lr


def _identity(pair: Pair, facts: Facts, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a run must share with the one that it continues."""
    fingerprint = pair.base.fingerprint
    return {
        "settings": dict(settings),
        "facts": facts.fingerprint,
        "base": {"weights": fingerprint.weights, "tokenizer": fingerprint.tokenizer},
        "below": {str(i): layer.record.get("files", {}) for i, layer in enumerate(pair.layers[:-1])},
        "versions": library_versions(),
    }
