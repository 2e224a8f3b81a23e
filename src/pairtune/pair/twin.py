"""Several pairs on one base: each has module objects of its own, in which its delta is put, over the same weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from pairtune.pair.base import Base
from pairtune.pair.names import Names

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

Model = TypeVar("Model", bound=nn.Module)


def skeleton(model: Model) -> Model:
    """The same modules once more, holding the same Parameter and buffer objects: no number is copied."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def twin(base: Base) -> Base:
    """A second base over the same weights in memory, as it was loaded, whatever stands on the first one.

    Weights of a base are never written to, so that neither can disturb the other.
    """
    model = skeleton(base.pristine)
    found = replace(base, model=model, pristine=base.pristine, names=Names(model, base.checkpoint))
    found.__dict__["fingerprint"] = base.fingerprint
    return found


def load_pairs(
    sources: Mapping[str, str | Path], base: str | None = None, *, dtype: str | None = None, device: str | None = None
) -> dict[str, Pair]:
    """Load several pairs by name; those that ask for the same base with the same head share its weights in memory.

    Arguments and errors are those of `Pair.load`.
    """
    from pairtune.pair import hub
    from pairtune.pair.loader import base_wanted, load_pair

    bases: dict[str, Base] = {}
    loaded = {}
    for name, source in sources.items():
        wanted = base_wanted(hub.local_folder(str(source), None), base)
        key = json.dumps(wanted, sort_keys=True)
        own = twin(bases[key]) if key in bases else Base.load(**wanted, dtype=dtype, device=device)
        bases.setdefault(key, own)
        loaded[name] = load_pair(source, own)
    return loaded
