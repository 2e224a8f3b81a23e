"""Finite groups that act on what a model reads: turned and mirrored images, and words that can stand for one another.

An action changes a batch's inputs; element 0 is always the identity. What a language model says is in words, too, and
has to be turned back before it can be compared. A classifier's labels stay: only those that a group leaves as they are
make sense of an invariant model, and a turned 6 is a 9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pairtune.errors import InputError
from pairtune.pair.modality import IMAGE, TEXT

if TYPE_CHECKING:
    from pairtune.pair.base import Base

Inputs = dict[str, Any]
_IDS = (TEXT.key, "decoder_input_ids")
_TURNS = tuple((turns, False) for turns in range(4))
_MIRRORED = tuple((turns, True) for turns in range(4))
# Elements as (quarter turns, mirrored first); "flip" is the half turn, which mirrors both axes.
IMAGE_GROUPS: dict[str, tuple[tuple[int, bool], ...]] = {
    "rot90": _TURNS,
    "hflip": ((0, False), (0, True)),
    "vflip": ((0, False), (2, True)),
    "flip": ((0, False), (2, False)),
    "rot90-hflip": _TURNS + _MIRRORED,
}


@dataclass(frozen=True)
class Group:
    """The elements of a group as functions on a batch's inputs.

    Attributes:
        tokens: [|G|, V] for words: the id that each element puts in every id's place.
    """

    name: str
    actions: tuple[Callable[[Inputs], Inputs], ...]
    tokens: Tensor | None = None

    def __len__(self) -> int:
        return len(self.actions)

    def orbit(self, inputs: Mapping[str, Any]) -> Inputs:
        """Every element's copy of a batch, one after the other: [B, ...] becomes [|G| B, ...].

        Tensors that no element changes are repeated, so that all copies go through a model in one pass.
        """
        copies = [action(dict(inputs)) for action in self.actions]
        return {
            key: torch.cat([copy[key] for copy in copies]) if isinstance(value, Tensor) else value
            for key, value in inputs.items()
        }

    def back(self, said: Tensor) -> Tensor:
        """What a language model says to the orbit, [|G|, ..., V], in the words of the untransformed input.

        The inverse acts on the vocabulary: log p(v) is what the model says of the id that stands for v in that copy.
        """
        assert self.tokens is not None
        tokens = self.tokens.to(said.device)
        return torch.stack([one[..., ids] for one, ids in zip(said, tokens, strict=True)])


def make_group(base: Base, name: str, cycles: Sequence[Sequence[str]]) -> Group:
    """The group of that name on what a base reads.

    Args:
        name: one of `IMAGE_GROUPS`, or "words".
        cycles: for "words", the words of each cycle in order; all cycles turn together, so that they have one length.

    Raises `InputError` where the base reads something else, its images are not square (quarter turns), or a word is no
    token of its own.
    """
    if name == "words":
        if base.modality is not TEXT:
            instead = f"; take {', '.join(IMAGE_GROUPS)}" if base.modality is IMAGE else ""
            raise InputError(f"group words: {base.source} reads {base.modality.many}{instead}")
        return _words(base, cycles)
    if cycles:
        raise InputError(f"cycles: belong to the group words, not to {name}")
    if base.modality is not IMAGE:
        instead = "; take words" if base.modality is TEXT else ""
        raise InputError(f"group {name}: turns images, and {base.source} reads {base.modality.many}{instead}")
    return Group(name, tuple(_turned(turns, mirrored) for turns, mirrored in IMAGE_GROUPS[name]))


def _turned(turns: int, mirrored: bool) -> Callable[[Inputs], Inputs]:
    """One element on images [B, C, H, W]."""

    def act(inputs: Inputs) -> Inputs:
        pixels = inputs[IMAGE.key]
        if turns % 2 and pixels.shape[-1] != pixels.shape[-2]:
            raise InputError(
                f"quarter turns need square images, these are {pixels.shape[-2]} x {pixels.shape[-1]}; take flip"
            )
        pixels = pixels.flip(-1) if mirrored else pixels
        return inputs | {IMAGE.key: torch.rot90(pixels, turns, (-2, -1))}

    return act


def _words(base: Base, cycles: Sequence[Sequence[str]]) -> Group:
    """The cyclic group that turns some cycles of words, on token ids [B, T]."""
    size, rows = len(cycles[0]), base.vocabulary_rows
    head: Any = base.model.get_output_embeddings() if base.view == "tokens" else None
    if head is not None and len(head.weight) != rows:
        raise InputError(f"group words: {base.source} reads {rows} tokens and says {len(head.weight)}")
    step = torch.arange(rows)
    seen: dict[int, str] = {}
    for cycle in cycles:
        for ids in _spellings(base, cycle):
            for word, one, following in zip(cycle, ids, [*ids[1:], ids[0]], strict=True):
                if one in seen:
                    raise InputError(f"cycles: {word!r} and {seen[one]!r} are one token; name every word once")
                seen[one], step[one] = word, following
    powers = [torch.arange(len(step))]
    for _ in range(size - 1):
        powers.append(step[powers[-1]])
    return Group("words", tuple(_exchanged(power) for power in powers), torch.stack(powers))


def _spellings(base: Base, cycle: Sequence[str]) -> list[list[int]]:
    """The ids of a cycle's words, alone and behind a space, as far as every word is one token there."""
    forms = [[_single(base, lead + word) for word in cycle] for lead in ("", " ")]
    for word, *ids in zip(cycle, *forms, strict=True):
        if all(one is None for one in ids):
            raise InputError(
                f"cycles: {word!r} is no token of its own for {base.source}, so that no other word can take its place"
            )
    whole = [tuple(one for one in form if one is not None) for form in forms if None not in form]
    if not whole:
        raise InputError(
            f"cycles: {', '.join(cycle)}: no spelling, alone or behind a space, makes each of them one token"
        )
    return [list(ids) for ids in dict.fromkeys(whole)]


def _single(base: Base, word: str) -> int | None:
    """The id of a word that is one known token."""
    ids = base.tokenizer(word, add_special_tokens=False)["input_ids"]
    return ids[0] if len(ids) == 1 and ids[0] != base.tokenizer.unk_token_id else None


def _exchanged(power: Tensor) -> Callable[[Inputs], Inputs]:
    def act(inputs: Inputs) -> Inputs:
        return inputs | {key: power.to(inputs[key].device)[inputs[key]] for key in _IDS if key in inputs}

    return act
