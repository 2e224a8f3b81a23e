"""Splits by a folder's convention: train, validation and test by the files' names, and every file of `ood/`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pairtune.data import media_folder
from pairtune.data.opening import ALIASES, FORMATS, format_of, stem
from pairtune.data.split import Split
from pairtune.errors import DataError, InputError
from pairtune.registry import suggest

EXPECTED = "train, validation (or valid, val, dev), test, or ood/<name>"
_ORDER = ["train", "validation", "test"]
_SHARD = re.compile(r"-\d+-of-\d+$")  # train-00000-of-00002.parquet, as the hub stores a large split


def files_of(folder: Path, named: Mapping[str, Any]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Files by split, as far as `named` does not already say, and the data files that the convention has no place for.

    Raises `InputError` where two files would be one split, `DataError` for a split in a format that is not read.
    """
    files: dict[str, list[Path]] = {}
    others = []
    for path in _visible(folder):
        name = ALIASES.get(_SHARD.sub("", stem(path)).lower())
        if name in named:
            continue
        if name is None:
            others += [path] if _readable(path) else []
        elif format_of(path) is not None:
            files.setdefault(name, []).append(path)
    for path in _visible(folder / "ood"):
        name = f"ood/{stem(path)}"
        if name not in named and format_of(path) is not None:
            files.setdefault(name, []).append(path)
    for name, paths in files.items():
        if len(paths) > 1 and not all(_SHARD.search(stem(path)) for path in paths):
            both = " and ".join(path.name for path in paths)
            raise InputError(f"{folder}: which file is the split {name}? There are {both}; give splits={{{name}: ...}}")
    return files, others


def nothing_found(folder: Path, others: list[Path]) -> InputError:
    """What to say of a folder without a split."""
    there = f"found {', '.join(path.name for path in others[:10])}" if others else "found no data files at all"
    return InputError(
        f"{folder}: no file is called {EXPECTED} (one of {', '.join(FORMATS)}, also with .gz), and no folder holds "
        f"images or recordings by class; {there}; name the files: splits={{train: ..., test: ...}}"
    )


def split_names(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Splits by their proper names, `ood: {a: ...}` becoming `ood/a`. Raises `InputError` for another name."""
    named: dict[str, Any] = {}
    for name, value in splits.items():
        inner = value.items() if name == "ood" and isinstance(value, Mapping) else [(None, value)]
        for part, one in inner:
            full = f"ood/{part}" if part is not None else ALIASES.get(str(name), str(name))
            if full not in _ORDER and not re.fullmatch(r"ood/[\w.-]+", full):
                near = suggest(full, ALIASES) or f"; an out-of-distribution split is called ood/{full}"
                raise InputError(f"splits: expected {EXPECTED}, found {full!r}{near}")
            if full in named:
                raise InputError(f"splits: {full} is given twice")
            named[full] = one
    return named


def read_splits(files: Mapping[str, Any], root: Path = Path()) -> dict[str, Split]:
    """Read each split's file or files, relative paths being looked up in `root`; train, validation, test come first.

    A split whose file is None is left out. Raises `InputError` for a path that is none or leads nowhere.
    """
    found = {}
    for name in sorted(files, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)):
        value = files[name]
        if value is None:
            continue
        paths = [value] if isinstance(value, (str, Path)) else list(value) if isinstance(value, Iterable) else []
        if not paths or not all(isinstance(path, (str, Path)) for path in paths):
            raise InputError(f"splits: {name} should be a file or a list of files, found {value!r}")
        found[name] = _read(name, [root / Path(path).expanduser() for path in paths])
    return found


def _read(name: str, paths: list[Path]) -> Split:
    """A split from files of rows, or from a folder of images or recordings."""
    if len(paths) == 1 and paths[0].is_dir():
        return media_folder.read(paths[0], classes=not name.startswith("ood/"))
    return Split.read(*paths)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_file() and not path.name.startswith("."))


def _readable(path: Path) -> bool:
    try:
        return format_of(path) is not None
    except DataError:
        return False
