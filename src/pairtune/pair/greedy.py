"""What the side of a pair that is on writes behind some token ids, greedily."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pairtune.pair.pair import evaluating
from pairtune.pair.views import with_positions

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair


@torch.inference_mode()
def greedy(pair: Pair, rows: Sequence[Sequence[int]], new_tokens: int, pad_id: int) -> list[list[int]]:
    """The ids that follow each row (for an encoder-decoder: that answer it), at most `new_tokens`, without end token.

    Args:
        rows: token ids, at least one each; padded on the left by `pad_id`, so that all continue at one place.
    """
    ids, mask = padded(rows, pad_id, pair.base.device)
    with evaluating(pair.model):
        if pair.by_head:
            # What stands beside a base is called by the base's own modules.
            model: Any = pair.model if hasattr(pair.model, "generate") else pair.base.model
            found = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens, pad_token_id=pad_id
            )
        else:
            found = by_logits(pair, ids, mask, new_tokens)
    start = ids.shape[1] if pair.base.family == "causal" else 1  # an encoder-decoder's begins with its start token
    ends = ends_of(pair)
    return [until(row, ends) for row in found[:, start:].tolist()]


def padded(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """[B, T] ids padded on the left, and the mask of those that are real."""
    reversed_rows = [torch.tensor(list(row)[::-1]) for row in rows]
    ids = pad_sequence(reversed_rows, True, pad_id).flip(1).to(device)
    mask = pad_sequence([torch.ones_like(row) for row in reversed_rows], True, 0).flip(1).to(device)
    return ids, mask


def by_logits(
    pair: Pair,
    ids: Tensor,
    mask: Tensor,
    new_tokens: int,
    score: Callable[[Tensor, Tensor], Tensor] = lambda _ids, logits: logits,
    stop: Callable[[Tensor, Any], Tensor] | None = None,
) -> Tensor:
    """The same for a delta that moves logits behind the head, which the model's own `generate` does not see.

    Args:
        ids, mask: [B, T] as `padded` gives them.
        score: (what is written so far, logits [B, V]) → scores of which the highest is taken.
        stop: (what is written so far, None) → [B] whether a row ends here. An end token always ends it.

    Returns: [B, T + n] prompts (of an encoder-decoder, the start token) and what was written; what stands behind a
    row's end has no meaning.
    """
    causal = pair.base.family == "causal"
    model: Any = pair.base.model
    written = ids if causal else ids.new_full((len(ids), 1), model.config.decoder_start_token_id)
    ends = torch.tensor(sorted(ends_of(pair)), device=ids.device)
    open_rows = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(new_tokens):
        read = {"input_ids": written} if causal else {"input_ids": ids, "decoder_input_ids": written}
        inputs = with_positions(pair, {**read, "attention_mask": mask})
        following = score(written, pair.model(**inputs).logits[:, -1]).argmax(-1)
        written = torch.cat([written, following[:, None]], 1)
        if causal:
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        open_rows &= ~torch.isin(following, ends)
        if stop is not None:
            open_rows &= ~stop(written, None)
        if not open_rows.any():
            break
    return written


def ends_of(pair: Pair) -> set[int]:
    """The ids at which the model stops."""
    model: Any = pair.base.model
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return {one for one in [*listed, pair.tokenizer.eos_token_id] if one is not None}


def until(ids: list[int], ends: set[int]) -> list[int]:
    """The ids before the first end token."""
    return ids[: next((i for i, one in enumerate(ids) if one in ends), len(ids))]
