"""Tables that name images or recordings: a column of paths, or of files' bytes as `datasets` stores them.

Paths are relative to the table's own folder. A column of bytes holds them bare, or as {"bytes": ..., "path": ...}. With
the columns `start` and `length` (in samples) a row is a part of its recording; a table without a column of paths that
has these two belongs to the recording beside it with its own name (`train.csv` to `train.flac`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pairtune.data.media import SOUNDS, Media, MediaError, modality_by_content, modality_by_name
from pairtune.data.split import MISSING, Rows, Split

SEGMENT = ("start", "length")
RECORDING = "audio"  # the column that a table of parts of one recording is given


def looks_like(value: Any) -> str | None:
    """ "image" or "audio" where a value stands for one: a path with such a suffix, bytes, or bytes with a path."""
    if isinstance(value, Media):
        return value.modality
    if isinstance(value, str):
        return modality_by_name(value) if len(value) < 1000 and "\n" not in value else None
    if isinstance(value, bytes):
        return modality_by_content(value)
    if isinstance(value, Mapping) and set(value) <= {"bytes", "path", "sampling_rate"} and "bytes" in value:
        data, path = value["bytes"], value.get("path")
        return modality_by_content(data) if data else modality_by_name(path) if path else None
    return None


def with_media(split: Split, column: str, modality: str) -> Split:
    """The split, the values of one column being images or recordings."""
    if isinstance(split[0].get(column), Media):
        return split
    return split.converted(column, lambda value, row, file: media_of(value, row, Path(file).parent, modality))


def media_of(value: Any, row: Mapping[str, Any], folder: Path, modality: Any) -> Media:
    """One value as an image or recording. Raises `MediaError` for one that is neither."""
    if isinstance(value, Media):
        return value
    segment = _segment(row) if modality == "audio" else None
    if isinstance(value, Mapping):
        name = str(value.get("path") or "the row's bytes")
        if value.get("bytes"):
            return Media(modality, value["bytes"], name)
        value = value.get("path")
    if isinstance(value, bytes):
        return Media(modality, value, f"the row's {modality}")
    if not isinstance(value, str) or not value.strip():
        found = "nothing" if value is None or value == "" else type(value).__name__
        raise MediaError(f"expected the path of an {modality} file, found {found}")
    return Media(modality, folder / Path(value.strip()).expanduser(), value.strip(), segment)


def _segment(row: Mapping[str, Any]) -> tuple[int, int] | None:
    found = [row.get(name) for name in SEGMENT]
    if any(value in (None, "") for value in found):
        return None
    try:
        start, length = (int(str(value)) for value in found)
    except ValueError:
        raise MediaError(
            f"start and length are whole numbers of samples, found {found[0]!r} and {found[1]!r}"
        ) from None
    if start < 0 or length < 1:
        raise MediaError(f"start is 0 or more and length 1 or more, in samples, found {start} and {length}")
    return start, length


def beside(split: Split) -> Split:
    """A table of parts of one recording, with the column that names it; any other table as it is."""
    columns = set(split.columns)
    if not set(SEGMENT) <= columns or RECORDING in columns:
        return split
    found = {file: _recording(Path(file)) for file in split.files}
    if not all(found.values()):
        return split
    return split.converted(RECORDING, lambda _value, _row, file: found[file])


def _recording(table: Path) -> str | None:
    stem = table.name.split(".")[0]
    there = [stem + suffix for suffix in sorted(SOUNDS) if (table.parent / (stem + suffix)).is_file()]
    return there[0] if len(there) == 1 else None


class ConvertedRows(Sequence):
    """Rows with one column changed, or added, when it is read.

    Args:
        change: (value or `MISSING`, row, index) → the new value.
    """

    def __init__(self, rows: Rows, column: str, change: Any):
        self._rows, self._column, self._change = rows, column, change
        self._kept: dict[int, Media] = {}

    def names(self) -> list[str]:
        """The names of the columns."""
        return list(dict.fromkeys([*self._rows.names(), self._column]))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override]
        row = dict(self._rows[i])
        kept = self._kept.get(i)
        if kept is None:
            kept = self._change(row.get(self._column, MISSING), row, i)
            if isinstance(kept, Media) and isinstance(kept.source, Path):
                self._kept[i] = kept  # it knows its hash then
        row[self._column] = kept
        return row

    def values(self, name: str) -> Iterator[Any]:
        """One column."""
        if name != self._column:
            return self._rows.values(name)
        return (self[i][name] for i in range(len(self)))
