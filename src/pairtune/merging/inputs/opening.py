"""What people name becomes sources to merge: checkpoints, PEFT adapters and pairtune's own folders, mixed freely."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pairtune.errors import BaseMismatch, InputError
from pairtune.merging.inputs.adapter import read_adapter
from pairtune.merging.inputs.sources import Source
from pairtune.pair import hub
from pairtune.pair.card import CARD_FILE, Card
from pairtune.pair.checkpoint import Checkpoint
from pairtune.pair.complete import verify
from pairtune.pair.delta_io import load_delta
from pairtune.pair.files import open_safetensors, read_json
from pairtune.pair.hub import ADAPTER_FILE
from pairtune.pair.inspect_folder import refuse_remote_code
from pairtune.pair.installed import DELTA_FILE
from pairtune.zoo import path as zoo_path

if TYPE_CHECKING:
    from pairtune.pair.delta import Delta

log = logging.getLogger("pairtune")


def open_sources(models: Sequence[str], base: str | None) -> tuple[list[Source], Source | None]:
    """The models and their base, in that order; no tensor is read but for the fingerprints that cards record.

    The base is the one that is given, else the one that the deltas name; None where all are checkpoints and none is
    given. Raises `InputError` where the deltas name different bases, `BaseMismatch` where one was made on another base.
    """
    folders = [_folder(model) for model in models]
    named = {model: _named_base(folder) for model, folder in zip(models, folders, strict=True)}
    known = dict.fromkeys(name for name in named.values() if name is not None)
    if base is None and len(known) > 1:
        pairs = "; ".join(f"{model}: {name}" for model, name in named.items() if name is not None)
        raise InputError(f"the deltas name different bases ({pairs}); give the one that is right with --base")
    base = base if base is not None else next(iter(known), None)
    origin = None
    if base is not None:
        folder = _folder(base)
        if _is_delta(folder):
            raise InputError(f"{base}: a base is a full checkpoint, and this is a delta; export it merged first")
        origin = _checkpoint(base, folder)
    return [_open(model, folder, origin) for model, folder in zip(models, folders, strict=True)], origin


def _folder(name: str) -> Path:
    folder = zoo_path(name.removeprefix("zoo:")) if name.startswith("zoo:") else hub.local_folder(name, None)
    refuse_remote_code(folder)
    return folder


def _is_delta(folder: Path) -> bool:
    return (folder / CARD_FILE).exists() or (folder / ADAPTER_FILE).exists()


def _named_base(folder: Path) -> str | None:
    """The base that a delta's folder records."""
    if (folder / CARD_FILE).exists():
        return Card.load(folder).base.source
    if (folder / ADAPTER_FILE).exists():
        name = read_json(folder / ADAPTER_FILE).get("base_model_name_or_path")
        return str(name) if name else None
    return None


def _checkpoint(label: str, folder: Path) -> Source:
    return Source(label, folder, Checkpoint(folder))


def _open(label: str, folder: Path, base: Source | None) -> Source:
    if not _is_delta(folder):
        same = base is not None and base.folder is not None and folder.samefile(base.folder)
        return Source(label, folder, base.tensors) if same and base is not None else _checkpoint(label, folder)
    if base is None:
        raise InputError(f"{label}: this is a delta that names no base; give it with --base")
    if (folder / CARD_FILE).exists():
        return _pair(label, folder, base)
    log.warning("%s is UNVERIFIED: PEFT records no fingerprint, so that nothing proves it was made on this base", label)
    return _adapter(label, folder, base)


def _pair(label: str, folder: Path, base: Source) -> Source:
    """A folder of pairtune's own."""
    verify(folder)
    card = Card.load(folder)
    _check_base(label, card, base)
    if len(card.stack) != 1:
        raise InputError(
            f"{label}: a stack of {len(card.stack)} deltas; write it as one model first: pairtune export --to merged"
        )
    if (folder / ADAPTER_FILE).exists():
        return _adapter(label, folder, base)
    delta = _own_delta(folder, base)
    if delta is None:
        return _loaded(label, folder, base)
    return Source(label, folder, base.tensors, delta)


def _own_delta(folder: Path, base: Source) -> Delta | None:
    """The delta of a folder, where its file is in the delta's own format; None for a tuner's own tensors."""
    if open_safetensors(folder / DELTA_FILE).metadata().get("format") is None:
        return None
    return load_delta(folder / DELTA_FILE, base=base.tensors.__getitem__)


def _adapter(label: str, folder: Path, base: Source) -> Source:
    delta = read_adapter(folder, base.tensors)
    return _loaded(label, folder, base) if delta is None else Source(label, folder, base.tensors, delta)


def _loaded(label: str, folder: Path, base: Source) -> Source:
    """Any other delta, by loading base and delta into memory: the tuner knows what it does to the weights."""
    from pairtune.pair.pair import Pair

    log.info("%s: this kind of delta is read with its base in memory", label)
    pair = Pair.load(folder, str(base.folder))
    if "merge" not in pair.top.installed.provides:
        raise InputError(f"{label}: this kind of delta cannot be added to its base's weights, so that it cannot merge")
    return Source(label, folder, base.tensors, pair.top.delta())


def _check_base(label: str, card: Card, base: Source) -> None:
    """Compare the fingerprint that a card records with the base's files; reads each stored byte of the base once."""
    stored = base.tensors
    assert isinstance(stored, Checkpoint)
    # The fingerprint's names are without the base model's prefix, the files' may be with it.
    places = {name.partition(".")[2]: name for name in stored} | {name: name for name in stored}
    start = f"{label} was made on {card.base.source}, not on {base.label}"
    kept = sorted(card.fingerprint.tensors.items())
    for name, about in kept:
        if name not in places:
            raise BaseMismatch(f"{start}: it has no tensor {name}")
        if stored.shape(places[name]) != about.shape:
            raise BaseMismatch(
                f"{start}: {name} has the shape {list(stored.shape(places[name]))}, expected {list(about.shape)}"
            )
    for name, about in kept:
        if stored.digest(places[name]) != about.digest:
            raise BaseMismatch(f"{start}: {name} has other values")
