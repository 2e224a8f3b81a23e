"""Rows of any data file, as a stream with line numbers, in constant memory.

| name ends in (also with `.gz`) | a row is |
|---|---|
| `.csv`, `.tsv` | a record under a header line; quoted fields may hold line ends |
| `.jsonl`, `.ndjson` | a line with one object |
| `.json` | an element of an array of objects (or a line, as in JSONL) |
| `.parquet` | a row; its "line" is its number |
| `.txt` | a line that is not blank, under the column `text` |
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pairtune.data.json_rows import read_document, read_lines
from pairtune.data.opening import checked_format, numbered_lines
from pairtune.data.parquet import read_parquet
from pairtune.data.tables import read_table
from pairtune.errors import DataError

TEXT = "text"  # the column of plain text files


def read(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of every row: the line, from 1, on which the row starts.

    Raises `InputError` where there is no such file; `DataError`, with file and line, for a format that is not read, a
    misnamed file, text that is not UTF-8, a malformed row, and a file without rows.
    """
    path = Path(path)
    rows = _READERS[checked_format(path)](path)
    first = next(rows, None)
    if first is None:
        raise DataError("there are no rows in it", path)
    yield first
    yield from rows


def _read_text(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in numbered_lines(path):
        if text.strip():
            yield line, {TEXT: text.rstrip("\r\n")}


_READERS = {
    "csv": partial(read_table, delimiter=","),
    "tsv": partial(read_table, delimiter="\t"),
    "jsonl": read_lines,
    "json": read_document,
    "parquet": read_parquet,
    "txt": _read_text,
}
