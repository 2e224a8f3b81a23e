"""Where reproductions take their data from, and how they leave a cut of it as a task folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pairtune.data.readers import read
from pairtune.errors import InputError
from pairtune.pair.staging import staged_folder

Rows = list[dict[str, Any]]


def place(settings: Mapping[str, Any], name: str) -> Path:
    """A set's folder in the data folder, which `settings["data"]` or PAIRTUNE_DATA names. `InputError` without one."""
    folder = Path(settings["data"] or os.environ.get("PAIRTUNE_DATA") or ".") / name
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; name the data folder with --set data=FOLDER")
    return folder


def rows_of(settings: Mapping[str, Any], name: str, file: str) -> Rows:
    """All rows of `<data>/<name>/<file>.jsonl.gz`."""
    return [row for _, row in read(place(settings, name) / f"{file}.jsonl.gz")]


def write_task(folder: Path, splits: Mapping[str, Rows]) -> None:
    """Write splits as a task folder; it appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with staged_folder(folder) as staging:
        for split, rows in splits.items():
            file = staging / f"{split}.jsonl"
            file.parent.mkdir(exist_ok=True)
            file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
