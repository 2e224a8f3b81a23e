"""Which layer a tensor belongs to, and what it would be called in another one."""

from __future__ import annotations

import re
from typing import NamedTuple

from pairtune.errors import InputError
from pairtune.merging.inputs.sources import Source

_LAYER = re.compile(r"(?P<before>(?:.*?\.)?(?:layers|layer|h|blocks|block)\.)(?P<layer>\d+)(?P<after>\..+)")


class LayerPlace(NamedTuple):
    """A tensor's name, taken apart at the number of its layer."""

    before: str
    layer: int
    after: str

    def at(self, layer: int) -> str:
        """The name of the same tensor in another layer."""
        return f"{self.before}{layer}{self.after}"


def place_of(name: str) -> LayerPlace | None:
    """The layer of a tensor; None for one that is no layer's (embedding, final norm, head)."""
    found = _LAYER.fullmatch(name)
    return None if found is None else LayerPlace(found["before"], int(found["layer"]), found["after"])


def layer_count(source: Source) -> int:
    """How many layers a model has. Raises `InputError` for a model of several stacks of layers."""
    places = [place for name in source.names if (place := place_of(name)) is not None]
    stacks = sorted({place.before for place in places})
    if len(stacks) > 1:
        raise InputError(
            f"{source.label}: has several stacks of layers ({', '.join(stacks)}), which is not supported here"
        )
    return max((place.layer for place in places), default=-1) + 1
