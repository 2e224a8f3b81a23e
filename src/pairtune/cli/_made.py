"""Verbs that make data to tune on: the folder that they write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pairtune.errors import InputError


def check_new(folder: Path) -> None:
    """Raise `InputError` for a folder that is there and not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and not empty; name a new folder")


def write_folder(folder: Path, files: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Write files of rows (JSONL) by their path in the folder, all of them or none."""
    from pairtune.pair.disk import hidden_beside

    folder.parent.mkdir(parents=True, exist_ok=True)
    place = hidden_beside(folder, "partial")
    try:
        for name, rows in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (place / name).write_text("".join(lines), encoding="utf-8")
        if folder.exists():
            folder.rmdir()  # empty, as `check_new` has seen
        place.replace(folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)
