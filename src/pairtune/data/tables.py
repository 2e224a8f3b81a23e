"""Rows of CSV and TSV files, each with the line on which it starts."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from pairtune.data.opening import numbered_lines
from pairtune.errors import DataError

_LONGEST = min(sys.maxsize, 2**31 - 1)  # the csv module refuses fields above 128 kB unless told so; texts are longer


def read_table(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    """(first line of the row, row by column name); quoted fields may hold line ends.

    Raises `DataError` naming the line: a header that is missing, empty or repeats a name; a row with more or fewer
    fields than the header; a quote that is never closed.
    """
    csv.field_size_limit(_LONGEST)
    reader = csv.reader((text for _, text in numbered_lines(path)), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            hint = "a quote inside a quoted field is written twice, and a field that begins with one ends with one"
            raise DataError(f"{error} (quotes out of order? {hint})", path, line) from None
        if not fields:
            continue  # a blank line
        if not header:
            header = _header(path, line, fields, delimiter)
        elif len(fields) != len(header):
            kept = "quotes" if delimiter == "," else "quotes, or stand in JSONL,"
            raise DataError(
                f"found {len(fields)} fields, the header has {len(header)} ({', '.join(header)}); a field that holds "
                f"{delimiter!r} or a line end must be in {kept} to count as one",
                path,
                line,
            )
        else:
            yield line, dict(zip(header, fields, strict=True))


def _header(path: Path, line: int, fields: list[str], delimiter: str) -> list[str]:
    header = [field.strip() for field in fields]
    if "" in header:
        hint = " (an index that pandas wrote? write with index=False)" if header[0] == "" and len(header) > 1 else ""
        raise DataError(f"column {header.index('') + 1} of the header has no name{hint}", path, line)
    twice = next((name for i, name in enumerate(header) if name in header[:i]), None)
    if twice is not None:
        raise DataError(f"the header names the column {twice!r} twice", path, line)
    other = next((mark for mark in (";", "\t", ",", "|") if mark != delimiter and mark in header[0]), None)
    if len(header) == 1 and other:
        raise DataError(
            f"the header is one column, {header[0]!r}: its fields seem to be parted by {other!r}, expected "
            f"{delimiter!r}; save it so, or as JSONL",
            path,
            line,
        )
    return header
