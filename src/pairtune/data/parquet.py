"""Parquet files: rows as a stream, or kept as Arrow, which takes a fraction of Python objects' memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pairtune.data.opening import whole
from pairtune.errors import DataError

_AT_ONCE = 1024  # rows that are Python objects at one time


def read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, row), one row group in memory at a time. Raises `DataError` for a damaged file."""
    number = 0
    with _opened(path) as file:
        for group in range(file.num_row_groups):
            for batch in file.iter_batches(batch_size=_AT_ONCE, row_groups=[group]):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row


class ArrowRows(Sequence):
    """The rows of an Arrow table."""

    def __init__(self, table: Any):
        self.table = table

    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self.table.column_names)

    @classmethod
    def read(cls, path: Path) -> ArrowRows:
        """The rows of a Parquet file. Raises `DataError` for a damaged one."""
        with _opened(path) as file:
            return cls(file.read())

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.table.slice(i, 1).to_pylist()[0]

    def values(self, name: str) -> Iterator[Any]:
        """One column, a part of it being Python objects at a time."""
        for chunk in self.table.column(name).chunks:
            for start in range(0, len(chunk), _AT_ONCE):
                yield from chunk.slice(start, _AT_ONCE).to_pylist()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(whole(path) if path.name.lower().endswith(".gz") else path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"not a readable Parquet file ({str(error).splitlines()[0]})", path) from None
