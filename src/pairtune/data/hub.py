"""Data sets of the Hugging Face hub, through the `datasets` library, which keeps them memory-mapped in Arrow.

Since version 4 that library runs no code from a repository; an older data set that is a script is refused by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pairtune.data.opening import ALIASES
from pairtune.data.split import Split
from pairtune.errors import InputError
from pairtune.registry import suggest

if TYPE_CHECKING:
    from pairtune.data.sources import Found


class HubRows(Sequence):
    """The rows of a `datasets.Dataset`; class numbers are read as their names, −1 (label withheld) as None."""

    def __init__(self, data: Any, names: Mapping[str, Sequence[str]]):
        self._data, self._names = data, names

    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self._data.column_names)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, i: int) -> dict[str, Any]:
        row = dict(self._data[i])
        for column in self._names:
            row[column] = self._named(column, row[column])
        return row

    def values(self, name: str) -> Iterator[Any]:
        """One column, a part of it being in memory at a time."""
        for row in self._data.select_columns([name]):
            yield self._named(name, row[name]) if name in self._names else row[name]

    def _named(self, column: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self._named(column, one) for one in value]
        return None if value is None or value < 0 else self._names[column][value]


def load_hub(path: str, config: str | None, revision: str | None, named: Mapping[str, Any]) -> Found:
    """The splits of a hub data set: train, validation (or valid, val, dev), test, and those that `named` asks for.

    Raises `InputError` where there is no such data set, configuration or split, or the hub cannot be reached.
    """
    import datasets

    from pairtune.data.sources import Found

    what = path + (f":{config}" if config else "") + (f"@{revision}" if revision else "")
    try:
        data = datasets.load_dataset(path, config, revision=revision)
    except Exception as error:  # whatever the library and the network raise; its first line says why
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{what}: there is no such folder here, and the hub did not give this data set: {reason}"
        ) from None
    there = {str(name): _undecoded(part) for name, part in data.items()}
    wanted = {ALIASES[name]: name for name in there if name in ALIASES}
    for split, name in named.items():
        if name is None:
            wanted.pop(split, None)
        elif name not in there:
            raise InputError(
                f"{what}: the data set has no split {name!r} (splits: {', '.join(there)}){suggest(str(name), there)}"
            )
        else:
            wanted[split] = name
    if not wanted:
        raise InputError(
            f"{what}: which splits? It has {', '.join(there)}; name them: splits={{train: ..., test: ...}}"
        )
    names = _class_names(next(iter(there.values())).features)
    found = Found(path.rsplit("/", 1)[-1], {}, label_names=names)
    for split, name in wanted.items():
        found.splits[split] = Split(HubRows(there[name], names), [(0, f"{what}/{name}")])
    left = [name for name in there if name not in wanted.values()]
    if left:
        found.notes.append(f"splits of the data set that are not used: {', '.join(left)}")
    return found


def _undecoded(data: Any) -> Any:
    """Images and recordings as their files' bytes, which are decoded here, a row at a time."""
    import datasets

    for column, feature in data.features.items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            data = data.cast_column(column, type(feature)(decode=False))
    return data


def _class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names by column, for columns of class numbers and of lists of class numbers."""
    found = {}
    for column, feature in features.items():
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if names:
            found[column] = list(names)
    return found
