"""The completeness marker of a saved folder: which files it holds, and the hashes by which a change is found.

The marker is the last file written. A folder without one, or whose files are not all there, was never finished. The
model card `README.md` is for people to edit and is not part of it.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pairtune.errors import FormatError
from pairtune.pair.disk import open_regular, read_json, safe_join, sync_folder, write_json
from pairtune.pair.tensorfile import SafetensorsFile

MARKER = "COMPLETE"
_LIMIT = 64 << 20  # bytes of a marker: 10^5 tensors take about 10 MB
_PROSE = "README.md"


def seal(folder: Path, known: Mapping[str, dict[str, Any]] | None = None) -> None:
    """Make a folder's files durable and then mark it complete. Raises `FormatError` for a link or a damaged file.

    `known` has the description of files by whoever hashed them while writing, which then are not read once more.
    """
    files, known = {}, known or {}
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise FormatError(f"{path}: a link cannot be part of a saved folder")
        with open_regular(path) as file:
            os.fsync(file.fileno())
        if name not in (MARKER, _PROSE):
            files[name] = known.get(name) or _describe(path)
    for inner in [path for path in folder.rglob("*") if path.is_dir()]:
        sync_folder(inner)
    write_json(folder / MARKER, {"format": 1, "saved_ns": time.time_ns(), "files": files})


def is_complete(folder: str | Path) -> bool:
    """Whether the folder's marker is there, and every file that it lists with its size. Reads no weights."""
    folder = Path(folder)
    try:
        files = _read(folder)["files"]
        return all(safe_join(folder, name).stat().st_size == about["size"] for name, about in files.items())
    except (FormatError, OSError):
        return False


def newest_complete(parent: str | Path, pattern: str = "*") -> Path | None:
    """The complete folder in `parent` that was saved last, among names that match; None if there is none."""
    found = []
    for path in Path(parent).glob(pattern):
        if not path.name.startswith(".") and path.is_dir() and is_complete(path):
            # Of two with one time (a coarse clock), the higher number: checkpoint-10 after checkpoint-9.
            numbers = [int(digits[:18]) for digits in re.findall(r"\d+", path.name)]
            found.append((_read(path)["saved_ns"], numbers, path.name, path))
    return max(found)[-1] if found else None


def verify(folder: str | Path) -> None:
    """Compare every file with the marker's hashes; reads each byte once.

    Raises one `FormatError` that names each file, and in safetensors each tensor, that is missing or was changed.
    """
    folder = Path(folder)
    wrong = []
    for name, about in _read(folder)["files"].items():
        path = safe_join(folder, name)
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != about["size"]:
            wrong.append(f"{name} has {path.stat().st_size:,} bytes instead of {about['size']:,}")
        else:
            wrong += _differences(path, name, about)
    if wrong:
        raise FormatError(f"{folder}: changed or damaged since it was saved: {'; '.join(wrong[:20])}")


def listed(folder: Path) -> set[str]:
    """Names of all files that belong to a complete folder, the marker included. `FormatError` without a marker."""
    return {MARKER, _PROSE, *_read(folder)["files"]}


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())


def _describe(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if path.suffix != ".safetensors":
        with open_regular(path) as file:
            return {"size": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    # By tensor, so that one that was tampered with can be named; header and tensors are the whole file.
    opened = SafetensorsFile(path)
    tensors = {name: hashlib.sha256(opened.raw(name)).hexdigest() for name in opened}
    return {"size": size, "header": hashlib.sha256(opened.header()).hexdigest(), "tensors": tensors}


def _differences(path: Path, name: str, about: dict[str, Any]) -> list[str]:
    try:
        found = _describe(path)
    except FormatError as error:
        return [f"{name} ({error})"]
    if found == about:
        return []
    if found.get("header") != about.get("header") or found.keys() != about.keys() or "sha256" in found:
        return [name]
    return [f"{name}: tensor {t!r}" for t, digest in found["tensors"].items() if about["tensors"].get(t) != digest]


def _read(folder: Path) -> dict[str, Any]:
    path = folder / MARKER
    if not path.exists():
        raise FormatError(f"{folder}: not complete: its saving was interrupted, or pairtune did not write it")
    marker = read_json(path, _LIMIT)
    files, saved = marker.get("files"), marker.get("saved_ns")
    if marker.get("format") != 1 or type(saved) is not int or not isinstance(files, dict):
        raise FormatError(f"{path}: expected format 1, saved_ns and files; it is damaged, or from a newer pairtune")
    for name, about in files.items():
        hashes = about.get("tensors", {}) if isinstance(about, dict) else None
        if not isinstance(hashes, dict) or type(about.get("size")) is not int:
            raise FormatError(f"{path}: expected a size and hashes for {name[:200]!r}; the marker is damaged")
    return marker
