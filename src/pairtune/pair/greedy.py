"""What the side of a pair that is on writes behind some token ids, greedily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

from pairtune.pair.pair import evaluating

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair


@torch.inference_mode()
def greedy(pair: Pair, rows: Sequence[Sequence[int]], new_tokens: int, pad_id: int) -> list[list[int]]:
    """The ids that follow each row (for an encoder-decoder: that answer it), at most `new_tokens`, without end token.

    Args:
        rows: token ids, at least one each; padded on the left by `pad_id`, so that all continue at one place.
    """
    model: Any = pair.model
    reversed_rows = [torch.tensor(list(row)[::-1]) for row in rows]
    ids = pad_sequence(reversed_rows, True, pad_id).flip(1).to(pair.base.device)
    mask = pad_sequence([torch.ones_like(row) for row in reversed_rows], True, 0).flip(1).to(pair.base.device)
    with evaluating(pair.model):
        found = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens, pad_token_id=pad_id
        )
    start = ids.shape[1] if pair.base.family == "causal" else 1  # an encoder-decoder's begins with its start token
    ends = _ends(pair)
    return [_until(row, ends) for row in found[:, start:].tolist()]


def _ends(pair: Pair) -> set[int]:
    """The ids at which the model stops."""
    model: Any = pair.base.model
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return {one for one in [*listed, pair.tokenizer.eos_token_id] if one is not None}


def _until(ids: list[int], ends: set[int]) -> list[int]:
    return ids[: next((i for i, one in enumerate(ids) if one in ends), len(ids))]
