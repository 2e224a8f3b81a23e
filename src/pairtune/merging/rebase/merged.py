"""A moved delta as one checkpoint of the new base, from disk to disk: the sum of `rebase`, never whole in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pairtune.errors import BaseMismatch, InputError
from pairtune.merging.engine.plan import Rule
from pairtune.merging.engine.run import Merged, parse_dtype, prepare, write
from pairtune.merging.inputs.compare import check_shapes, config_of
from pairtune.merging.inputs.opening import open_sources
from pairtune.merging.inputs.sources import Changed, Source, Stored
from pairtune.merging.inputs.tied import resolve
from pairtune.merging.linear import Linear
from pairtune.merging.outputs import beside
from pairtune.merging.rebase.moving import moved
from pairtune.merging.rebase.versions import check_settings, check_tokenizers
from pairtune.pair import hub
from pairtune.pair.delta import Delta
from pairtune.pair.parts import Module, Part, Rows, Value

WIDE = torch.float64


class MovedTensor(Changed):
    """The new base's tensor with a change that was made on the old one's, computed in float64."""

    def __init__(self, new: Stored, part: Part, old: Stored):
        super().__init__(new, part)
        self.old = old

    def value(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Elements [start, stop) in float64, whatever is asked for, so that they are rounded once."""
        edge = self.base.tensor.numel()
        inside = min(stop, edge)
        change = self.part.old if isinstance(self.part, Rows) else self.part
        pieces = []
        if start < inside:
            new = self.base.value(start, inside, WIDE)
            if isinstance(change, Value):
                tuned = Stored(change.value).value(start, inside, WIDE)
                pieces.append(moved(tuned, self.old.value(start, inside, WIDE), new))
            elif change is None:
                pieces.append(new)
            else:
                pieces.append(new + Changed(self.base, change).own_change(start, inside, WIDE))
        if stop > edge:
            assert isinstance(self.part, Rows)
            pieces.append(Stored(self.part.rows).value(max(start, edge) - edge, stop - edge, WIDE))
        return torch.cat(pieces)


@dataclass(frozen=True)
class MovedSource(Source):
    """The new base with the moved delta, as a model that can be read in pieces. `made_on`: the old base's tensors."""

    made_on: Mapping[str, Tensor] | None = None

    def stored(self, name: str) -> Tensor | None:
        part = self.part(name)
        return super().stored(name) if part is None or isinstance(part, Module) else None

    def read(self, name: str) -> Stored | Changed:
        part = self.part(name)
        if part is None or isinstance(part, Module):
            return super().read(name)
        assert self.made_on is not None
        name = self._stored_as(name)
        return MovedTensor(Stored(self.tensors[name]), part, Stored(self.made_on[name]))


def rebase_merged(
    source: str | Path,
    onto: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str | None = None,
) -> Merged:
    """Write the new base with the moved delta as a checkpoint that transformers loads.

    Args as in `rebase`; the old base is always needed. `dtype` is the stored type, by default the new base's. The
    folder has the new base's configuration, the fine-tune's tokenizer, chat template and generation configuration, and
    `merge.json`, which says what was moved onto what. Interrupted, the same call goes on where it was.

    Raises `BaseMismatch` for bases that are no versions of one another, `InputError` for a delta that is no change of
    weights, and as `merge.run.merge` does.
    """
    (model,), old = open_sources([str(source)], None if base is None else str(base))
    if old is None:
        raise InputError(f"{source}: a full checkpoint does not say what it was tuned from; name that with --base")
    (_,), new = open_sources([str(onto)], str(onto))
    assert new is not None and new.folder is not None
    frozen = _buffers(new.folder)
    check_settings(config_of(old), config_of(new), old.label, new.label)
    (model, old), new, untied = resolve([model, old], new)
    if untied or new is None:
        raise BaseMismatch(f"{source}, {old.label} and {onto} do not all share their output head with the embedding")
    check_shapes([old], new, False)
    owner = model if model.folder is not None and (model.folder / "tokenizer_config.json").exists() else old
    _check_words(owner, new)
    delta = model.delta if model.delta is not None else _difference(model, old)
    if any(isinstance(part, Module) for part in delta.values()):
        raise InputError(
            f"{source}: it brings a new head, of which {onto} knows nothing; move it as a pair, export that"
        )
    kept = Delta({name: part for name, part in delta.items() if name not in frozen}, base=old.tensors.__getitem__)
    whole = MovedSource(new.label, new.folder, new.tensors, kept, made_on=old.tensors)
    job = prepare([whole], None, lambda _: Rule(Linear(), (1.0,)), parse_dtype(dtype))
    grown = {part.shape[0] for part in kept.values() if isinstance(part, Rows)}
    # Listed beside the model that is written: whether their files are still the same decides if a stopped run goes on.
    job = replace(job, models=[whole, model, old], owner=owner, changes={"vocab_size": max(grown)} if grown else {})

    def record(figures: dict[str, Any]) -> dict[str, Any]:
        found = beside.card("rebase", {}, [model], None, new, figures)
        return found | {"onto": str(onto), "old_base": old.label}

    return Merged(Path(out), write(job, Path(out), 5 * 10**9, None, True, record))


def _difference(tuned: Source, old: Source) -> Delta:
    """What a full fine-tune changed: the tensors whose stored bytes differ, and rows of added tokens."""
    parts: dict[str, Part] = {}
    for name in sorted(old.names):
        if name not in tuned.names:
            raise BaseMismatch(f"{tuned.label}: the tensor {name} of {old.label} is missing from it")
        before, after = old.tensors[name], tuned.tensors[name]
        if before.shape == after.shape:
            if before.is_floating_point() and not torch.equal(before, after):
                parts[name] = Value(after)
        elif before.ndim == 2 and before.shape[1:] == after.shape[1:] and len(after) > len(before):
            parts[name] = Rows(len(before), after[len(before) :], Value(after[: len(before)]))
        else:
            shapes = f"{list(after.shape)}, {old.label} has {list(before.shape)}"
            raise BaseMismatch(f"{tuned.label}: {name} has the shape {shapes}; rows can be added, never removed")
    if extra := sorted(tuned.names - old.names):
        raise BaseMismatch(f"{tuned.label}: {extra[0]} is not a tensor of {old.label}")
    return Delta(parts, base=old.tensors.__getitem__)


def _check_words(owner: Source, new: Source) -> None:
    assert owner.folder is not None and new.folder is not None
    check_tokenizers(hub.load_tokenizer(owner.folder), hub.load_tokenizer(new.folder), new.label)


def _buffers(folder: Path) -> set[str]:
    """Names of the saved tensors that are no parameters (running statistics, tables); they stay the new base's."""
    import transformers

    config = hub.load_config(folder)
    cls = getattr(transformers, next(iter(config.architectures or ()), ""), None)
    if cls is None:
        return set()
    with torch.device("meta"):
        model = cls._from_config(config)
    saved, parameters = model.state_dict().keys(), dict(model.named_parameters(remove_duplicate=False))
    return {name for name in saved if name not in parameters}
