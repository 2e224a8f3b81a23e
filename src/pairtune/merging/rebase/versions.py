"""Is one base another version of the other? The same architecture and shapes, and token ids that mean the same."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pairtune.errors import BaseMismatch
from pairtune.pair import hub
from pairtune.pair.base import Base, folder_of
from pairtune.pair.checkpoint import Checkpoint, tokenizer_digest
from pairtune.pair.names import Names

log = logging.getLogger("pairtune")
# Settings that change what a tensor of the same shape means; all others may differ, and the new base's are kept.
_MEANING = ("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "hidden_activation")


def as_version(new: Base, source: str, revision: str | None = None) -> Base:
    """The old base by its files alone: its stored tensors and tokenizer, under the new base's model.

    Only what reads the checkpoint (`stored`, `names`, `fingerprint`) may be asked of it. Raises `BaseMismatch` where
    its configuration is of another architecture, `InputError` where it cannot be found.
    """
    folder = folder_of(source, revision)
    before, after = (one.get_text_config().to_dict() for one in (hub.load_config(folder), new.model.config))
    check_settings(before, after, source, new.source)
    checkpoint = Checkpoint(folder)
    return replace(
        new,
        source=source,
        revision=revision,
        folder=folder,
        checkpoint=checkpoint,
        names=Names(new.model, checkpoint),
        tokenizer=hub.load_tokenizer(folder),
        notes=[],
    )


def shapes_of(base: Base) -> dict[str, tuple[int, ...]]:
    """Shapes of the stored tensors that the model loads, by their names without the base model's prefix."""
    prefix = base.model.base_model_prefix + "."
    loaded = [name for name in base.checkpoint if base.names.memory(name) not in (None, *base.new_names)]
    return {name.removeprefix(prefix): base.checkpoint.shape(name) for name in loaded}


def check_shapes(old: str, expected: Mapping[str, tuple[int, ...]], new: Base) -> None:
    """Refuse a new base whose tensors are not those of the old one, in name and shape.

    Args:
        old: the old base's name. expected: its shapes, by names as in `shapes_of`.
    """
    found = shapes_of(new)
    for name in sorted(expected.keys() ^ found.keys()):
        where = old if name in expected else new.source
        raise BaseMismatch(
            f"{new.source} is no version of {old}: the tensor {name} is only in {where}; a delta can be moved "
            "between versions of one architecture and size"
        )
    for name, shape in sorted(expected.items()):
        if shape == found[name]:
            continue
        if len(shape) == 2 and shape[1:] == found[name][1:] and found[name][0] == new.vocabulary_rows:
            raise BaseMismatch(
                f"{name} has {found[name][0]} rows of the vocabulary in {new.source} and {shape[0]} in {old}; ids "
                "beyond the smaller number mean different tokens, so that the delta cannot be moved"
            )
        raise BaseMismatch(
            f"{new.source} is no version of {old}: {name} has the shape {list(found[name])} there and {list(shape)} "
            "here; a delta can be moved between versions of one architecture and size"
        )


def check_tokenizers(mine: Any, new: Any, name: str) -> None:
    """Refuse a new base whose ordinary tokens have other ids than the fine-tune's; the log names special ones.

    Args:
        mine: the fine-tune's tokenizer. new: that of the new base, whose `name` stands in messages.
    """
    theirs = {i: token for token, i in new.get_vocab().items()}
    own = {i: token for token, i in mine.get_vocab().items()}
    special = _special(mine) | _special(new)
    other = [i for i in sorted(theirs) if own.get(i) != theirs[i]]
    ordinary = [i for i in other if i not in special]
    if ordinary:
        first = ordinary[0]
        raise BaseMismatch(
            f"token ids mean other things in {name}: id {first} is {own.get(first)!r} for the fine-tune and "
            f"{theirs[first]!r} there ({len(ordinary)} such ids)"
        )
    if other:
        listed = ", ".join(f"{own.get(i)!r} for {theirs[i]!r}" for i in other[:5])
        log.warning("special tokens differ from those of %s; the fine-tune's are taken: %s", name, listed)
    elif len(own) == len(theirs) and tokenizer_digest(mine) != tokenizer_digest(new):
        log.warning("%s cuts texts into tokens in another way than the fine-tune, whose way is taken", name)


def _special(tokenizer: Any) -> set[int]:
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def check_settings(old: Mapping[str, Any], new: Mapping[str, Any], old_name: str, new_name: str) -> None:
    """Refuse configurations of which one gives the same tensors another meaning than the other; the rest may differ."""
    if old.get("model_type") != new.get("model_type"):
        raise BaseMismatch(
            f"{new_name} is a {new.get('model_type')}, {old_name} a {old.get('model_type')}; a delta moves within one"
        )
    for name in _MEANING:
        if name in old and name in new and old[name] != new[name]:
            raise BaseMismatch(
                f"{new_name} is no version of {old_name}: {name} is {new[name]} there and {old[name]} here"
            )
    if old.get("tie_word_embeddings") and new.get("tie_word_embeddings") is False:
        raise BaseMismatch(f"{new_name} has an output head of its own, {old_name} shares it with the embedding")
