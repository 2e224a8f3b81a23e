"""Reading the names of tensors: their natural order, the layer they belong to, and patterns over them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

from pairtune.errors import DeltaMismatch, InputError

LAYER = r"^((?:.*?\.)??\d+)(?:\.|$)"  # up to the first whole number: model.layers.3, encoder.block.0


def natural(name: str) -> list[tuple[int, str]]:
    """A sorting key by which layers.2 comes before layers.10."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def layer_of(name: str, by: str | re.Pattern[str] = LAYER) -> str:
    """The layer of a tensor: what the pattern finds (its first group, if it has one), else the tensor's module.

    `model.layers.3.mlp.up_proj.weight` → `model.layers.3`; `model.norm.weight` → `model.norm`.
    """
    found = re.search(by, name)
    if found is None:
        return name.rpartition(".")[0] or name
    return found[1] if found.re.groups and found[1] is not None else found[0]


def matching(names: Iterable[str], patterns: tuple[str | re.Pattern[str], ...]) -> set[str]:
    """The names that any of the patterns matches: a text is a glob for the whole name, a compiled one is searched for.

    Raises `DeltaMismatch` for a pattern that matches none of the names.
    """
    names = list(names)
    found: set[str] = set()
    for pattern in patterns:
        if isinstance(pattern, str):
            hits = {name for name in names if fnmatchcase(name, pattern)}
        else:
            hits = {name for name in names if pattern.search(name)}
        if not hits:
            text = pattern if isinstance(pattern, str) else pattern.pattern
            raise DeltaMismatch(f"no tensor of the delta matches {text!r}; its tensors are {some(names)}")
        found |= hits
    return found


def some(names: Iterable[str], most: int = 5) -> str:
    """The first few names for a message, and how many more there are."""
    names = list(names)
    text = ", ".join(names[:most]) or "none"
    return text + (f" and {len(names) - most} more" if len(names) > most else "")


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put a tensor's name before the message of an error about it."""
    try:
        yield
    except InputError as error:
        error.args = (f"{name}: {error}",)
        raise
