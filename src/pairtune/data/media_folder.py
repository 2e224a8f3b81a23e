"""Folders of images or recordings: a class is a folder's name, a split a folder around them.

    train/<class>/a.png   validation/<class>/b.png   test/<class>/c.png   ood/<name>/<class>/d.png

Without split folders, <class>/a.png is one set, to be split. Files of `ood/<name>` need no class. Below a class's
folder any nesting will do. A split's folder with a table `metadata.csv` or `metadata.jsonl` is read by that instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from pairtune.data.media import Media, modality_by_name
from pairtune.data.opening import ALIASES
from pairtune.data.split import Split
from pairtune.errors import DataError

LABEL = "label"
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


class FolderRows(Sequence):
    """A row a file; `label` is the name of the folder that it lies in, None where it lies in none."""

    def __init__(self, modality: Any, files: Sequence[tuple[Path, str | None]]):
        self._column, self._files = modality, list(files)
        self._media = [Media(modality, path) for path, _ in files]

    def names(self) -> list[str]:
        """The names of the columns."""
        return [self._column, LABEL]

    def file_of(self, i: int) -> str:
        """The file that a row is."""
        return str(self._files[i][0])

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override]
        return {self._column: self._media[i], LABEL: self._files[i][1]}

    def values(self, name: str) -> Iterator[Any]:
        """One column."""
        return (self[i].get(name) for i in range(len(self)))


def splits_of(folder: Path, taken: Collection[str], notes: list[str]) -> dict[str, Split]:
    """The splits that are folders of images or recordings, but for those that are `taken` already.

    Raises `DataError` where the files of a split's folder lie in no class folder, or are of both kinds.
    """
    found: dict[str, Split] = {}
    places = [(ALIASES[path.name.lower()], path) for path in _folders(folder) if path.name.lower() in ALIASES]
    places += [(f"ood/{path.name}", path) for path in _folders(folder / "ood")]
    for name, path in places:
        if name in found:
            raise DataError(f"which folder is the split {name}? {path.name} is not the only one", folder)
        if name not in taken and (table_of(path) or any(media_files(path))):
            found[name] = read(path, notes, classes=not name.startswith("ood/"))
    if not {"train", "validation", "test"} & {*found, *taken} and (rows := _classes(folder)):
        found["train"] = _split(folder, rows, notes)
    return found


def read(folder: Path, notes: list[str] | None = None, *, classes: bool = True) -> Split:
    """One split from its folder.

    Args:
        notes: takes what a reader should know, such as files that are not read.
        classes: whether every file must lie in a class's folder.
    """
    table = table_of(folder)
    if table is not None:
        return Split.read(table)
    rows = list(media_files(folder))
    if not rows:
        raise DataError("there is no image and no recording in this folder", folder)
    loose = [path for path, label in rows if label is None]
    if classes and loose:
        raise DataError(f"it lies in no class's folder (expected {folder.name}/<class>/{loose[0].name})", loose[0])
    return _split(folder, rows, notes if notes is not None else [])


def is_single(folder: Path) -> bool:
    """Whether a folder has class folders and no split folders, so that it is to be split."""
    return not any(path.name.lower() in ALIASES for path in _folders(folder))


def table_of(folder: Path) -> Path | None:
    """The table that says what a split's folder holds, where there is one."""
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def _classes(folder: Path) -> list[tuple[Path, str | None]]:
    """Files by class of a folder without splits."""
    if not is_single(folder):
        return []
    return [row for row in media_files(folder) if row[1] not in (None, "ood")]


def _split(folder: Path, rows: list[tuple[Path, str | None]], notes: list[str]) -> Split:
    kinds = Counter(modality_by_name(path.name) for path, _ in rows)
    if len(kinds) > 1:
        raise DataError(
            f"there are {kinds['image']:,} images and {kinds['audio']:,} recordings here; part them", folder
        )
    with_files = {label for _, label in rows}
    empty = [path.name for path in _folders(folder) if path.name not in with_files and path.name != "ood"]
    if empty and None not in with_files:
        notes.append(f"{folder.name}: nothing to read in the folders {', '.join(empty[:10])}")
    return Split(FolderRows(next(iter(kinds)), rows), [(0, str(folder))])


def media_files(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """(file, class) of every image or recording, in the order of their names."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if modality_by_name(path.name) and not any(part.startswith(".") for part in inside) and path.is_file():
            yield path, inside[0] if len(inside) > 1 else None


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
