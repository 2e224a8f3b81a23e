"""Change the card of a saved pair, and the small files that it speaks of, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pairtune.errors import InputError
from pairtune.pair.card import CARD_FILE
from pairtune.pair.complete import MARKER
from pairtune.pair.files import write_json, write_safetensors
from pairtune.pair.staging import staged_folder

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.card import Card


def rewrite_card(folder: str | Path, card: Card, tensors: Mapping[str, Mapping[str, Tensor] | None]) -> None:
    """Put another card into a pair's folder.

    A new folder is built from links to the old one's files and exchanged with it, so that a crash leaves the old card
    or the new one, and the completeness marker fits either. The model card `README.md` is kept as people edited it.

    Args:
        tensors: safetensors file → its tensors, written beside the card; None removes the file.

    Raises `InputError` where there is no pair to change, or where the folder holds files that pairtune did not save.
    """
    folder = Path(os.path.realpath(folder))
    if not (folder / CARD_FILE).is_file():
        raise InputError(f"{folder}: there is no {CARD_FILE} here; save the pair with Pair.save(folder) first")
    with staged_folder(folder) as staging:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and name.as_posix() not in (MARKER, CARD_FILE, *tensors):
                (staging / name.parent).mkdir(parents=True, exist_ok=True)
                _link(path, staging / name)
        for file, content in tensors.items():
            if content is not None:
                write_safetensors(staging / file, {key: value.contiguous() for key, value in content.items()})
        write_json(staging / CARD_FILE, card.model_dump(mode="json"))


def _link(old: Path, new: Path) -> None:
    """A second name for the same bytes: nothing here writes into a file. A copy where the disk has no links."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)
