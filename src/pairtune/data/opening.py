"""Opening a data file: what it is by its name, whether its first bytes agree, and its text with line numbers.

A file is read as a stream of UTF-8 lines, through gzip where its name ends in `.gz`. Files that can run code when they
are opened (pickles and their kin) are refused by name, and by content where somebody renamed one.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pairtune.errors import DataError, InputError
from pairtune.registry import suggest

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".npz": "npz",
    ".txt": "txt",
}
# What a split is called, in file, folder and array names.
ALIASES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".ckpt", ".dill", ".npy"})
_SAVE_AS = "save the rows as JSONL or Parquet"
# What a file is by its first bytes, for those that are often renamed by mistake. A pickle names its protocol, 2 to 5.
_MAGIC = [
    *((bytes([0x80, protocol]), "a pickle") for protocol in range(2, 6)),
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PK\x03\x04", _ZIP := "a zip archive (an Excel workbook, a torch or NumPy file)"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"BZh", "a bzip2 file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"%PDF", "a PDF"),
    (codecs.BOM_UTF16_LE, "UTF-16 text"),
    (codecs.BOM_UTF16_BE, "UTF-16 text"),
]


def stem(path: Path) -> str:
    """The file's name without `.gz` and the format's suffix."""
    return Path(path.name.removesuffix(".gz")).stem


def format_of(path: Path) -> str | None:
    """The format by the file's name, None for another kind of file. Raises `DataError` for a pickle, unopened."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in PICKLES:
        raise DataError(f"files of this kind ({suffix}) can run any code when they are opened; {_SAVE_AS}", path)
    return FORMATS.get(suffix)


def checked_format(path: Path) -> str:
    """The format of an existing file, its first bytes agreeing with its name.

    Raises `InputError` where there is no such file, `DataError` for a format that is not read or a misnamed file.
    """
    kind = format_of(path)
    if not path.is_file():
        near = suggest(path.name, (other.name for other in path.parent.glob("*")) if path.parent.is_dir() else ())
        raise InputError(f"there is no file {path}{near}")
    if kind is None:
        raise DataError(f"this format is not read; {_SAVE_AS} (read: {', '.join(FORMATS)}, each also with .gz)", path)
    found = _content(path)
    expected = {"parquet": "a Parquet file", "npz": _ZIP}.get(kind)
    if found != expected:
        what = found or ("not a Parquet file" if kind == "parquet" else "not a NumPy archive")
        hint = _SAVE_AS if found == "a pickle" else "give it the suffix of what it holds, or " + _SAVE_AS
        raise DataError(f"this is {what}, in spite of its name; {hint}", path)
    return kind


def _content(path: Path) -> str | None:
    with reading(path) as stream:
        start = stream.read(16)
    return next((what for magic, what in _MAGIC if start.startswith(magic)), None)


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """The file's bytes, decompressed. A file that is damaged or cannot be opened raises `DataError`."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"damaged, or not a gzip file ({error})", path) from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", path) from None


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines, their ends kept. Raises `DataError` naming the line that is not UTF-8."""
    with reading(path) as stream:
        for number, raw in enumerate(stream, 1):
            try:
                yield number, (raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw).decode()
            except UnicodeDecodeError as error:
                raise _not_utf8(path, number, error) from None


class TextStream:
    """The file's text in pieces of any size, for formats whose rows are not lines."""

    def __init__(self, path: Path, stream: BinaryIO | gzip.GzipFile):
        self.path = path
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._lines = 1

    def read(self, size: int) -> str:
        """The next `size` bytes as text, empty at the end."""
        raw = self._stream.read(size)
        try:
            text = self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise _not_utf8(self.path, self._lines + error.object[: error.start].count(b"\n"), error) from None
        self._lines += raw.count(b"\n")
        return text if text or not raw else self.read(size)


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError) -> DataError:
    byte = error.object[error.start]
    return DataError(f"not UTF-8 text (byte 0x{byte:02x}, {error.reason}); save the file as UTF-8", path, line)


def whole(path: Path) -> io.BytesIO:
    """All of the file in memory, for a compressed format that needs seeking."""
    with reading(path) as stream:
        return io.BytesIO(stream.read())
