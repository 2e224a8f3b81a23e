"""NumPy archives (`.npz`): arrays with a row an item; one of them may be images.

| in the file | becomes |
|---|---|
| `x` [n, H, W], [n, H, W, C] or [n, C, H, W] with C of 1, 3 or 4 | images |
| `y` [n], and every other array of n single values | a column of that name |
| `x_train`, `train_images` and the like | splits: train, validation (or valid, val, dev) and test |

Pixels are whole numbers from 0 to 255, or numbers from 0 to 1. No pickle is read.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.data.media import Media
from pairtune.data.opening import ALIASES, whole
from pairtune.errors import DataError

if TYPE_CHECKING:
    import numpy as np

CHANNELS = (1, 3, 4)
SMALLEST = 4  # pixels of an image's side: smaller arrays are no pictures
_SPLIT = "|".join(ALIASES)
_NAMED = re.compile(rf"(?P<before>{_SPLIT})_(?P<rest>\w+)|(?P<stem>\w+)_(?P<after>{_SPLIT})", re.IGNORECASE)


class NpzRows(Sequence):
    """The rows of one table of arrays.

    Args:
        arrays: column → [n, ...]. images: column → [n, H, W] or [n, H, W, C] uint8.
    """

    def __init__(self, path: Path, arrays: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray]):
        self._path, self._arrays, self._images = path, dict(arrays), dict(images)
        self._size = len(next(iter((*self._images.values(), *self._arrays.values()))))

    @classmethod
    def read(cls, path: Path) -> NpzRows:
        """The rows of a file that holds one split. Raises `DataError` for one that holds several or none."""
        tables = read_tables(path)
        if len(tables) > 1:
            raise DataError(f"it holds {' and '.join(tables)}; give the file itself as the data", path)
        return next(iter(tables.values()))

    def names(self) -> list[str]:
        """The names of the columns, images first."""
        return [*self._images, *self._arrays]

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override]
        return {name: self._value(name, range(self._size)[i]) for name in self.names()}

    def values(self, name: str) -> Iterator[Any]:
        """One column."""
        return (self._value(name, i) for i in range(self._size))

    def _value(self, name: str, i: int) -> Any:
        if name in self._images:
            return Media("image", self._images[name][i], f"{self._path.name}, row {i + 1}")
        return self._arrays[name][i].item()


def read_tables(path: Path) -> dict[str, NpzRows]:
    """Split → rows; the split is "train" where the file's names tell of none.

    Raises `DataError` for a damaged file, one that holds Python objects, arrays of different lengths, and images that
    are none, the first bad row being named.
    """
    arrays = _load(path)
    named = {name: _NAMED.fullmatch(name) for name in arrays}
    tables: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        match = named[name]
        if match is None or not all(named.values()):
            tables.setdefault("train", {})[name] = array
        else:
            split = ALIASES[(match["before"] or match["after"]).lower()]
            tables.setdefault(split, {})[match["rest"] or match["stem"]] = array
    return {split: _table(path, columns) for split, columns in tables.items()}


def _load(path: Path) -> dict[str, np.ndarray]:
    import numpy as np

    try:
        with np.load(whole(path) if path.name.lower().endswith(".gz") else path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError) as error:
        if "allow_pickle" in str(error):
            why = "it holds Python objects, which are pickles and can run any code when they are opened"
            raise DataError(f"{why}; save arrays of numbers", path) from None
        raise DataError(f"not a readable NumPy archive ({(str(error).splitlines() or ['damaged'])[0]})", path) from None


def _table(path: Path, arrays: Mapping[str, np.ndarray]) -> NpzRows:
    """Arrays with a row an item; single numbers beside them are left out."""
    columns = {name: array for name, array in arrays.items() if array.ndim}
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in columns.items()) or "no arrays"
    if not columns or not all(len(array) for array in columns.values()):
        raise DataError(f"there are no rows in it ({shapes})", path)
    if len({len(array) for array in columns.values()}) > 1:
        raise DataError(f"its arrays have different numbers of rows: {shapes}", path)
    images = {name: _pixels(path, name, array) for name, array in columns.items() if array.ndim > 2}
    plain = {
        n: a.reshape(len(a))
        for n, a in columns.items()
        if a.ndim <= 2 and a.size == len(a) and a.dtype.kind in "biufUS"
    }
    if not images and not plain:
        raise DataError(f"it holds neither images [n, H, W(, C)] nor single values a row: {shapes}", path)
    return NpzRows(path, plain, images)


def _pixels(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """Images [n, H, W] or [n, H, W, C] as uint8, whatever the array's layout and type."""
    import numpy as np

    shape = list(array.shape)
    if array.ndim == 4 and array.shape[3] not in CHANNELS and array.shape[1] in CHANNELS:
        array = np.moveaxis(array, 1, 3)
    if array.ndim > 4 or (array.ndim == 4 and array.shape[3] not in CHANNELS) or min(array.shape[1:3]) < SMALLEST:
        raise DataError(
            f"{name} has the shape {shape}; images are [n, H, W], [n, H, W, C] or [n, C, H, W], with 1, 3 or 4 "
            f"channels and sides of {SMALLEST} pixels at least",
            path,
        )
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind not in "iuf":
        raise DataError(f"{name} is of the type {array.dtype}; pixels are numbers", path)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(axis=1)))
        raise DataError(f"{name}: row {row + 1} holds NaN or infinite pixels", path)
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 255:
        raise DataError(f"{name} has values from {low:g} to {high:g}; pixels go from 0 to 255, or from 0 to 1", path)
    scale = 255 if array.dtype.kind == "f" and high <= 1 else 1
    return np.rint(array.astype(np.float32) * scale).astype(np.uint8)
