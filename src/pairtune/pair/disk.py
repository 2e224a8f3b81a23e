"""The lowest layer of storage: files replaced whole, paths that stay in their folder, and JSON from strangers.

A file is written beside its place, synced, and renamed over it, so that a crash at any instant leaves the old file or
the new one. What is read is taken to be hostile: sizes are bounded before memory is used, and only regular files open.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from pairtune.errors import DiskFull, FormatError, InputError
from pairtune.pair.lock import claim

JSON_LIMIT = 16 << 20  # bytes; Python objects take up to thirty times a hostile text's size
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt", ".dill"})
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def hidden_beside(path: Path, role: str) -> Path:
    """A fresh name beside `path`, on the same file system, that `recover` knows: `.<name>.<role>-<pid>-<random>`."""
    return path.with_name(f".{path.name}.{role}-{os.getpid()}-{secrets.token_hex(4)}")


def check_room(path: Path, needed: int) -> None:
    """Raise `DiskFull` when the disk of `path`'s folder has fewer than `needed` bytes free."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise DiskFull(_full_message(path, needed, free, "its disk is too full"))


def _full_message(path: Path, needed: int | None, free: int, why: str) -> str:
    needs = "" if needed is None else f"{needed:,} bytes are needed, "
    return f"cannot write {path}: {why} ({needs}{free:,} bytes are free); free some space or choose another folder"


@contextmanager
def writing(path: Path, needed: int | None = None, *, only_full: bool = False) -> Iterator[None]:
    """Turn an `OSError` of the block into `DiskFull` (disk, quota or file-size limit) or `InputError` (any other)."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            free = 0
            with suppress(OSError):
                free = shutil.disk_usage(path.parent).free
            raise DiskFull(_full_message(path, needed, free, os.strerror(error.errno))) from None
        if only_full:
            raise
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another folder") from None


@contextmanager
def replacing(path: Path, size: int) -> Iterator[io.BufferedWriter]:
    """Yield a new file, of about `size` bytes, that takes `path`'s place, synced, when the block ends without error."""
    partial = hidden_beside(path, "tmp")
    with writing(path, size):
        check_room(path, size)
        descriptor = claim(partial, folder=False)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(partial, path)
            sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a folder's names durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync names by themselves
            raise
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading; anything else (a pipe would wait for ever) raises `FormatError`."""
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FormatError(f"{path}: expected a regular file")
    return file


def read_json(
    path: str | Path, limit: int = JSON_LIMIT, *, constants: bool = False, objects: bool = True
) -> dict[str, Any]:
    """Read a JSON object of at most `limit` bytes (with `objects=False`, a list or anything else that JSON has).

    Raises `FormatError` for a repeated key, bad UTF-8, nesting beyond Python's limit, a top level that is not an
    object, or NaN and infinity. `constants=True` lets those two pass, as some published model configs hold them.
    """
    with open_regular(Path(path)) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise FormatError(f"{path}: larger than {limit:,} bytes, the most that is read of such a file")
    return parse_json(data, str(path), constants=constants, objects=objects)


def parse_json(data: bytes, where: str, *, constants: bool = False, objects: bool = True) -> dict[str, Any]:
    """Parse bytes as `read_json` does; `where` begins the error message."""
    strict = {} if constants else {"parse_constant": _refuse_constant, "parse_float": _finite}
    try:
        text = data.decode()
        value = json.loads(text, object_pairs_hook=_without_repetition, **strict)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair cannot be written again
    except RecursionError:
        raise FormatError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise FormatError(f"{where}: not valid JSON: {error}") from None
    if objects and not isinstance(value, dict):
        raise FormatError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the key {twice[:200]!r} occurs twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large")
    return value


def write_json(path: str | Path, obj: Mapping[str, Any]) -> None:
    """Write an object as indented UTF-8 JSON, replacing the file whole. NaN and infinity raise `FormatError`."""
    try:
        data = (json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: this cannot be written as JSON: {error}") from None
    with replacing(Path(path), len(data)) as file:
        file.write(data)


def safe_join(root: str | Path, name: str) -> Path:
    """`root / name`, once it is sure that this stays in `root`; looks at names and links, opens nothing.

    Raises `FormatError` for an absolute path, `..`, or a symbolic link out of the folder. The links of the hub's cache,
    from a snapshot to the blobs of the same model, are the only ones that may leave.
    """
    root = Path(root)
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name:
        raise FormatError(f"{root}: expected the name of a file in this folder, found {str(name)[:200]!r}")
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise FormatError(f"{root}: the path {name[:200]!r} leads out of this folder; nothing outside it is opened")
    inside = [Path(os.path.realpath(root))]
    model = inside[0].parent.parent
    if inside[0].parent.name == "snapshots" and "--" in model.name:
        inside.append(model / "blobs")
    real = Path(os.path.realpath(root / name))
    if not any(real.is_relative_to(folder) for folder in inside):
        raise FormatError(f"{root}: {name[:200]!r} is a symbolic link out of this folder; put the file itself there")
    return root / name


def refuse_pickle(path: str | Path) -> None:
    """Raise `FormatError` for a file whose kind is a pickle, by its name alone: such a file is never opened."""
    if Path(path).suffix.lower() in PICKLES:
        raise FormatError(
            f"{path}: files of this kind are pickles, which can run any code when opened; use a safetensors version, "
            "or convert it where you trust the file: AutoModel.from_pretrained(folder).save_pretrained(new_folder)"
        )
