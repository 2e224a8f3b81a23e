"""Where a task's splits come from: a folder, one file, named files, a data set of the hub, or the package itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pairtune.data import media_folder
from pairtune.data.folder import files_of, nothing_found, read_splits, split_names
from pairtune.data.npz import read_tables
from pairtune.data.opening import checked_format, format_of, stem
from pairtune.data.split import Split
from pairtune.errors import InputError
from pairtune.registry import suggest

DEMO = Path(__file__).parent / "demo"
_HUB = re.compile(r"(?P<path>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")


@dataclass
class Found:
    """What a source holds.

    Attributes:
        single: whether it is one file, to be split.
        label_names: class names by column, where the source itself knows them.
    """

    name: str
    splits: dict[str, Split]
    notes: list[str] = field(default_factory=list)
    single: bool = False
    label_names: dict[str, list[str]] = field(default_factory=dict)


def find(source: Any, splits: Mapping[str, Any], root: Path) -> Found:
    """The splits of a source, the named ones laid over its own.

    Args:
        splits: split → file, list of files, split name of the hub, or None to leave it out; `ood` may be a mapping.
        root: the folder in which relative paths are looked up.

    Raises `InputError` for a source or split that does not exist, `DataError` for a file that cannot be read.
    """
    named = split_names(splits)
    if source is None:
        if not any(named.values()):
            raise InputError("no data: give a source (folder, file, hub data set, demo:<name>) or splits")
        return Found("data", read_splits(named, root))
    if not isinstance(source, (str, Path)):
        raise InputError(f"source: expected a path or a name, found {source!r}")
    text = str(source)
    if text.startswith("demo:"):
        return _folder(_demo(text.removeprefix("demo:")), named)
    path = root / Path(text).expanduser()
    if path.is_dir():
        return _folder(path, named)
    if path.is_file() and format_of(path) == checked_format(path) == "npz" and len(tables := read_tables(path)) > 1:
        own = {name: Split(rows, [(0, str(path))]) for name, rows in tables.items() if name not in named}
        return Found(stem(path), {**own, **read_splits(named, path.parent)})
    if path.is_file() or format_of(path) is not None:
        return Found(stem(path), read_splits({"train": path.name, **named}, path.parent), single=not named)
    match = _HUB.fullmatch(text)
    if match is None or text.startswith("."):
        near = suggest(path.name, (other.name for other in path.parent.glob("*"))) if path.parent.is_dir() else ""
        raise InputError(
            f"{path}: there is no such file or folder{near} (a data set of the hub looks like owner/name or "
            "owner/name:config)"
        )
    from pairtune.data.hub import load_hub

    return load_hub(match["path"], match["config"], match["revision"], named)


def _folder(folder: Path, named: Mapping[str, Any]) -> Found:
    files, others = files_of(folder, named)
    found = Found(folder.resolve().name, {**read_splits(files), **read_splits(named, folder)})
    media = media_folder.splits_of(folder, {*found.splits, *named}, found.notes)
    found.single = bool(media) and list(media) == ["train"] and not named and media_folder.is_single(folder)
    found.splits.update(media)
    if not found.splits:
        raise nothing_found(folder, others)
    used = {name for split in found.splits.values() for name in split.files}
    left = [path.name for path in others if str(path) not in used]
    if left:
        found.notes.append(f"files that no split uses: {', '.join(left[:10])}{', ...' if len(left) > 10 else ''}")
    return found


def _demo(name: str) -> Path:
    there = sorted(path.name for path in DEMO.glob("*") if path.is_dir() and not path.name.startswith("_"))
    if name not in there:
        raise InputError(f"there is no demo {name!r} (demos: {', '.join(there) or 'none'}){suggest(name, there)}")
    return DEMO / name
