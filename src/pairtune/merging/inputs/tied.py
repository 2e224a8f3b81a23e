"""Heads that some models store and others share with their embedding, resolved before the plan is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pairtune.merging.inputs.sources import Source


def resolve(models: Sequence[Source], base: Source | None) -> tuple[list[Source], Source | None, bool]:
    """Give every model every head, and say whether the result is untied.

    Where all stored heads equal their model's embedding, the head is left out and the result stays tied. Where one does
    not, the models that share theirs get an alias, and the result stores both.
    """
    everyone = [*models, *([base] if base is not None else [])]
    union = frozenset().union(*(source.names for source in everyone))
    uneven = sorted(name for name in union if any(name not in source.names for source in everyone))
    if not uneven:
        return list(models), base, False
    tied = {source.folder: _tied(source.folder) for source in everyone}
    found, untied = everyone, False
    for name in uneven:
        lacking = [source for source in found if name not in source.names]
        if any(tied[source.folder].get(name) not in source.names for source in lacking):
            continue  # a tensor that is really missing; the plan says so
        shared = next(tied[source.folder][name] for source in lacking)
        if all(_same(source, name, shared) for source in found if name in source.names):
            found = [_without(source, name) for source in found]
        else:
            found = [s if name in s.names else replace(s, aliases={**s.aliases, name: shared}) for s in found]
            untied = True
    return found[: len(models)], found[-1] if base is not None else None, untied


def _tied(folder: Path | None) -> dict[str, str]:
    """The tensors of the model's class that share another one's memory: name → the one that is stored."""
    if folder is None or not (folder / "config.json").exists():
        return {}
    import transformers

    from pairtune.pair import hub

    config = hub.load_config(folder)
    for name in config.architectures or ():
        if (cls := getattr(transformers, name, None)) is not None:
            with torch.device("meta"):
                return dict(getattr(cls._from_config(config), "all_tied_weights_keys", None) or {})
    return {}


def _same(source: Source, name: str, shared: str) -> bool:
    one, other = source.stored(name), source.stored(shared)
    return one is not None and other is not None and torch.equal(one, other)


def _without(source: Source, name: str) -> Source:
    if name not in source.names:
        return source
    return replace(source, tensors=_Fewer(source.tensors, name))


class _Fewer(dict):
    """A checkpoint's tensors without one of them, still lazy."""

    def __init__(self, tensors, name: str):
        super().__init__(dict.fromkeys(other for other in tensors if other != name))
        self._tensors = tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self:
            raise KeyError(name)
        return self._tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """As the checkpoint's."""
        return self._tensors.shape(name)

    def dtype(self, name: str) -> str:
        """As the checkpoint's."""
        return self._tensors.dtype(name)
