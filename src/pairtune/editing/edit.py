"""`edit`: facts into a delta, in one call. The API behind `pairtune edit`; the ways of editing stand in `locft/`."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pairtune.data.facts import Fact, Facts
from pairtune.editing.locft.settings import Settings, settings_of
from pairtune.errors import InputError, ResumeMismatch
from pairtune.pair.base import Base, folder_of
from pairtune.pair.card import CARD_FILE, BaseRecord, Card
from pairtune.pair.complete import is_complete
from pairtune.pair.pair import Pair
from pairtune.training import folders

log = logging.getLogger("pairtune")
LISTED = 100  # conflicts in the log


def edit(
    facts: str | Path | Sequence[Fact | Mapping[str, Any]],
    base: Base | Pair | str | Path,
    out: str | Path | None = None,
    *,
    device: str | None = None,
    resume: bool = False,
    restart: bool = False,
    **settings: Any,
) -> Pair:
    """Edit facts into a causal language model: a pair whose top delta holds what moved, and nothing else.

    Args:
        facts: a file (see `data/facts.py`), or rows with prompt and target, and rephrase and locality where they are
            to be measured.
        base: a base, or a pair: the edits then stand on its deltas, which stay as they are. A `Pair` that is given
            becomes the edited one.
        out: the folder of the new pair; without it nothing is kept.
        resume: go on with the run that was stopped in `<out>.run`.
        restart: replace what is there.
        settings: see `locft/settings.py`.

    Conflicting edits are listed in the log before anything is tuned; they are tuned all the same. Raises `DataError`
    naming bad rows, `ConfigError` and `InputError` for what cannot be, `Stopped` after Ctrl-C with what was done kept,
    `NonFiniteError` where the loss becomes NaN.
    """
    from pairtune.editing.locft.apply import apply

    facts, chosen = Facts.read(facts), settings_of(settings)
    tell(facts)
    out = None if out is None else Path(out)
    if out is not None and resume and not restart and is_complete(out):
        return _finished(out, device, chosen, facts)
    with folders.work_folder(out, 1, continuing=resume, restart=restart) as work:
        pair = open_pair(base, device)
        checksum = pair.base.checksum()
        apply(pair, facts, chosen, work)
        pair.verify_base(checksum)
        pair.card = _card(pair, facts, chosen, base)
        if out is not None:
            pair.save(out)
            shutil.rmtree(work, ignore_errors=True)
            log.info("saved %s", out)
    return pair


def tell(facts: Facts) -> None:
    """Say in the log what is odd in the facts: conflicts, repeated rows, columns that mean nothing here."""
    found = facts.conflicts()
    for conflict in found[:LISTED]:
        log.warning("conflict: %s", conflict.said(facts))
    if found:
        more = f" ({LISTED} are listed, --json has all)" if len(found) > LISTED else ""
        log.warning("%d conflict(s) among %d edits, which cannot all hold%s", len(found), len(facts), more)
    if facts.repeated:
        rows = f"{len(facts.repeated)} row(s) repeat"
        log.warning("%s an earlier one's prompt and target, and count once: %s", rows, _few(facts.repeated))
    if facts.unused:
        log.info("columns that are not read: %s", _few(facts.unused))


def open_pair(base: Base | Pair | str | Path, device: str | None) -> Pair:
    """The pair that is to be edited, still without the edits.

    Raises `InputError` for a model that does not write a text on.
    """
    if isinstance(base, Pair):
        pair = base
    elif isinstance(base, Base):
        pair = Pair(base)
    elif (folder_of(str(base)) / CARD_FILE).is_file():
        pair = Pair.load(base, device=device)
    else:
        pair = Pair(Base.load(base, device=device))
    if pair.base.family != "causal" or "tokens" not in pair.views:
        what = "has a head for labels" if pair.base.family == "causal" else f"is of the family {pair.base.family}"
        raise InputError(f"{base}: facts are edited into causal language models, which write a text on; this {what}")
    return pair


def _finished(out: Path, device: str | None, chosen: Settings, facts: Facts) -> Pair:
    """The pair that a run has left already. Raises `ResumeMismatch` where it is not this run's."""
    pair = Pair.load(out, device=device)
    made = pair.top.record.get("training", {})
    given = {name: value for name, value in chosen.model_dump().items() if value is not None}
    other = [name for name, value in given.items() if made.get(name) != value]
    other += ["facts"] if made.get("identity", {}).get("facts") != facts.fingerprint else []
    if other:
        raise ResumeMismatch(f"{out} is the pair of another run (differs in {', '.join(other)}); --restart replaces it")
    log.info("%s is finished already", out)
    return pair


def _card(pair: Pair, facts: Facts, chosen: Settings, base: Base | Pair | str | Path) -> Card:
    """What is remembered; the task of the pair below stays, since the variant still serves it."""
    old, made = pair.card, pair.top.record["training"]
    place = f" at {made['at']}" if made["at"] else ""
    return Card(
        base=BaseRecord.of(pair.base),
        stack=[],
        task=old.task if old else None,
        seed=chosen.seed,
        parents=[str(base)] if old and isinstance(base, str | Path) else [],
        notes=[f"{len(facts)} edits by {chosen.method}{place}"],
    )


def _few(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
