"""Explanations without the sentences during which the model pointed against the direction that steers it.

    a_t = cos(h_t, s)        h_t: [d] behind the steered block where token t is read, before s is added; s: [d]

A segment (a sentence or clause) of which at least half of the tokens have a_t < 0 is left out, and with it every other
segment that repeats it nearly: 2 M / T ≥ 0.9 of Ratcliff and Obershelp (difflib), M being the matching characters and T
all of both. The first segment, which holds the verdict, always stays. The rule of half and 0.9 are ours: the paper's
values are not known. A true negation may be left out as well, so that the whole text is kept beside this one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from pairtune.errors import InputError
from pairtune.generation.steering import steered
from pairtune.generation.vectors import steerable, summed
from pairtune.pair.pair import evaluating
from pairtune.pair.shared import collect_hidden
from pairtune.pair.views import with_positions

if TYPE_CHECKING:
    from pairtune.generation.engine import Writer, Written

NOISE, ALIKE = 0.5, 0.9
_SEGMENT = re.compile(r"[^.!?;,:\n]+[.!?;,:\n]*\s*|[.!?;,:\n]+\s*")


@dataclass(frozen=True)
class Cleaned:
    """text: what stays. left_out: the segments that do not, in their order. scores: [T] the cosine at each token."""

    text: str
    left_out: list[str]
    scores: list[float]


def cleaned(writer: Writer, prompt: Sequence[int], written: Written) -> Cleaned:
    """What a writer wrote behind a prompt's ids, cleaned by the directions that steered it (several: their mean).

    Raises `InputError` where no vector has a direction.
    """
    scores = _cosines(writer, prompt, written.ids)
    decode, ids = writer.pair.tokenizer.decode, written.ids
    ends = [len(decode(ids[:i], skip_special_tokens=True)) for i in range(len(ids) + 1)]
    middles = [(start + end) / 2 for start, end in pairwise(ends)]
    segments = [(found.start(), found.end(), found[0]) for found in _SEGMENT.finditer(written.text)]
    noise = []
    for start, end, text in segments[1:]:
        inside = [score for score, at in zip(scores, middles, strict=True) if start <= at < end]
        if inside and sum(score < 0 for score in inside) >= NOISE * len(inside):
            noise.append(text)
    kept = [text for i, (_, _, text) in enumerate(segments) if i == 0 or not any(alike(text, one) for one in noise)]
    left = [text for i, (_, _, text) in enumerate(segments) if i and any(alike(text, one) for one in noise)]
    return Cleaned("".join(kept).rstrip() if left else written.text, left, scores)


def alike(one: str, other: str) -> bool:
    """Whether two segments repeat each other nearly."""
    return SequenceMatcher(None, one.strip().lower(), other.strip().lower(), autojunk=False).ratio() >= ALIKE


@torch.inference_mode()
def _cosines(writer: Writer, prompt: Sequence[int], ids: Sequence[int]) -> list[float]:
    """[T] the mean over the steered blocks of cos(h_t, s) at each token written; one pass over the whole."""
    pair, directions = writer.pair, summed(writer.vectors)
    if not directions or not all(one.norm() > 0 for one in directions.values()):
        raise InputError("cleaning compares with a direction, and a vector of strength 0 has none")
    if not ids:
        return []
    causal = pair.base.family == "causal"
    model: Any = pair.base.model
    first = len(prompt) if causal else 1
    read = torch.tensor([[*prompt, *ids] if causal else list(prompt)], device=pair.base.device)
    batch: dict[str, Tensor] = {"input_ids": read, "attention_mask": torch.ones_like(read)}
    if not causal:
        begun = [model.config.decoder_start_token_id, *ids]
        batch["decoder_input_ids"] = torch.tensor([begun], device=pair.base.device)
    layers = [block + 1 for block in directions]
    # What reads comes before what adds, so that h is what the block itself gives.
    with (
        evaluating(pair.model),
        collect_hidden(steerable(pair.base), layers) as found,
        steered(pair, writer.vectors, writer.positions) as steering,
        steering.answering(first),
    ):
        pair.model(**with_positions(pair, batch))
    cosines = [
        cosine_similarity(found[block + 1][0, first:].float(), one.to(pair.base.device)[None])
        for block, one in directions.items()
    ]
    return torch.stack(cosines).mean(0).tolist()
