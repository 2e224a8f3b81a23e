"""One split of a task: a sequence of rows, each of which knows the file and line that it came from."""

from __future__ import annotations

import hashlib
import json
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, overload

from pairtune.data.media import plain
from pairtune.data.npz import NpzRows
from pairtune.data.opening import checked_format
from pairtune.data.parquet import ArrowRows
from pairtune.data.readers import read
from pairtune.errors import DataError
from pairtune.registry import suggest

MISSING: Any = object()


class Rows(Protocol):
    """What holds a split's rows: a list, an Arrow table, or a data set of the hub."""

    def names(self) -> list[str]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> dict[str, Any]: ...
    def values(self, name: str, /) -> Iterator[Any]: ...


class ListRows(list):
    """Rows as Python objects; a row need not have every column."""

    def names(self) -> list[str]:
        """Every column that some row has, in the order of appearance."""
        return list(dict.fromkeys(name for row in self for name in row))

    def values(self, name: str) -> Iterator[Any]:
        """One column; `MISSING` where a row does not have it."""
        return (row.get(name, MISSING) for row in self)


class Split(Sequence):
    """A sequence of rows (dicts) with provenance.

    Args:
        rows: what holds them.
        files: (index of its first row, name) of each file, in order.
        lines: the line of each row, from 1; None where it is the row's number in its only file.
        picked: which rows of the store this split has, in which order; None for all.
    """

    def __init__(
        self,
        rows: Rows,
        files: Sequence[tuple[int, str]],
        lines: Sequence[int] | None = None,
        picked: Sequence[int] | None = None,
    ):
        self._rows, self._files, self._lines, self._picked = rows, list(files), lines, picked

    @classmethod
    def read(cls, *paths: str | Path) -> Split:
        """The rows of one or several files, in order. Parquet stays in Arrow, NumPy's arrays what they are.

        Raises as `readers.read`.
        """
        kept = {"parquet": ArrowRows, "npz": NpzRows}.get(checked_format(Path(paths[0]))) if len(paths) == 1 else None
        if kept is not None:
            rows = kept.read(Path(paths[0]))
            if not len(rows):
                raise DataError("there are no rows in it", paths[0])
            return cls(rows, [(0, str(paths[0]))])
        found, files, lines = ListRows(), [], array("q")
        for path in paths:
            files.append((len(found), str(path)))
            for line, row in read(path):
                found.append(row)
                lines.append(line)
        return cls(found, files, lines)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], name: str = "rows") -> Split:
        """A split of rows that are in memory; `name` takes the place of the file in messages."""
        return cls(ListRows(dict(row) for row in rows), [(0, name)])

    def __len__(self) -> int:
        return len(self._rows) if self._picked is None else len(self._picked)

    @overload
    def __getitem__(self, i: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, i: slice) -> Split: ...
    def __getitem__(self, i: int | slice) -> dict[str, Any] | Split:
        if isinstance(i, slice):
            return self.select(range(len(self))[i])
        return self._rows[self._stored(i)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows) if self._picked is None else (self._rows[i] for i in self._picked)  # type: ignore

    def select(self, indices: Sequence[int]) -> Split:
        """The rows at these indices, in their order, with their provenance. Shares the store."""
        return Split(self._rows, self._files, self._lines, array("q", (self._stored(i) for i in indices)))

    def _stored(self, i: int) -> int:
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of a split of {len(self)}")
        i = i + len(self) if i < 0 else i
        return i if self._picked is None else self._picked[i]

    @cached_property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return self._rows.names()

    @property
    def files(self) -> list[str]:
        """The files (or the name of the data set) that the rows come from."""
        return [name for _, name in self._files]

    def place(self, i: int) -> tuple[str, int | None]:
        """File and line (from 1) of a row; its number where the format has no lines, None where the file is the row."""
        i = self._stored(i)
        own = getattr(self._rows, "file_of", None)
        if own is not None:
            return own(i), None
        first, name = self._files[bisect_right([start for start, _ in self._files], i) - 1]
        return name, (i - first + 1 if self._lines is None else self._lines[i])

    def where(self, i: int) -> str:
        """`file:line` of a row, or the file that it is."""
        file, line = self.place(i)
        return file if line is None else f"{file}:{line}"

    def error(self, i: int, message: str) -> DataError:
        """An error about a row, which names its file and line."""
        return DataError(message, *self.place(i))

    def converted(self, column: str, change: Callable[[Any, dict[str, Any], str], Any]) -> Split:
        """The same rows, one column being changed when it is read; `change` takes its value, the row, and the file.

        A `ValueError` of it becomes a `DataError` that names the row's place.
        """
        from pairtune.data.media_table import ConvertedRows

        whole = Split(self._rows, self._files, self._lines)

        def one(value: Any, row: dict[str, Any], i: int) -> Any:
            try:
                return change(value, row, whole.place(i)[0])
            except ValueError as error:
                raise whole.error(i, f"column {column!r}: {error}") from None

        return Split(ConvertedRows(self._rows, column, one), self._files, self._lines, self._picked)

    def values(self, column: str, default: Any = MISSING) -> Iterator[Any]:
        """One column, row by row; `default` where a row does not have it.

        Without a default, raises `DataError` for a column that is not there, naming those that are, and for the first
        row without it.
        """
        self.require(column, default)
        if column not in self.columns:
            yield from (default for _ in range(len(self)))
            return
        every = self._rows.values(column) if self._picked is None else (self._rows[i] for i in self._picked)
        for i, value in enumerate(every):
            if self._picked is not None:
                value = value.get(column, MISSING)
            if value is MISSING:
                if default is MISSING:
                    has = ", ".join(map(str, self[i])) or "nothing"
                    raise self.error(i, f"this row has no {column!r} (it has: {has})")
                value = default
            yield value

    def require(self, column: str, default: Any = MISSING) -> None:
        """Raise `DataError` where there is no such column (and no default for it)."""
        if default is MISSING and column not in self.columns:
            there = f"columns: {', '.join(map(str, self.columns))}"
            name = ", ".join(self.files)
            raise DataError(f"there is no column {column!r} ({there}){suggest(column, map(str, self.columns))}", name)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every row's content in order, whatever the file format; to notice that data have changed."""
        total = hashlib.sha256()
        for row in self:
            total.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=plain).encode(errors="replace"))
            total.update(b"\n")
        return total.hexdigest()

    def __repr__(self) -> str:
        return f"Split({len(self)} rows of {', '.join(self.files)})"
