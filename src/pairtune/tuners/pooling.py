"""Activations of a base, read while it runs: one vector a text from chosen blocks, and no more than needed is run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pairtune.pair.logprobs import accepts
from pairtune.pair.modality import TEXT
from pairtune.pair.shared import collect_hidden
from pairtune.pair.views import positions

if TYPE_CHECKING:
    from pairtune.pair.base import Base

_ENCODER_KEYS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")


class _Enough(Exception):
    """Raised by the last block that is needed; the rest of the model is not run."""


def pool(hidden: Tensor, mask: Tensor, how: str) -> Tensor:
    """One vector a text, whatever side the padding is on.

    Args:
        hidden: [B, T, d].
        mask: [B, T], 1 where a token is real; at least one in every row.
        how: "mean" of the real tokens, the "first" or the "last" of them.

    Returns: [B, d] float32.
    """
    hidden, real = hidden.float(), mask.to(hidden.device).bool()
    if how == "mean":
        kept = hidden.masked_fill(~real.unsqueeze(-1), 0.0)
        return kept.sum(1) / real.sum(1, keepdim=True).clamp(min=1)
    index = torch.arange(real.shape[1], device=real.device).expand_as(real)
    at = index.masked_fill(~real, -1).amax(1) if how == "last" else index.masked_fill(~real, real.shape[1]).amin(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), at.clamp(0, real.shape[1] - 1)]


def readable_blocks(base: Base) -> list[nn.Module]:
    """The blocks that see the input text: all of them, or the encoder's of an encoder-decoder model."""
    blocks = [module for _, module in base.blocks]
    if base.family != "seq2seq":
        return blocks
    inside = set(base.model.get_encoder().modules())
    return [module for module in blocks if module in inside]


def default_pool(base: Base) -> str:
    """Masked mean for encoders; the last real token of a decoder-only model, which alone has seen the whole text."""
    return "last" if base.family == "causal" else "mean"


def hidden_states(base: Base, call: nn.Module, layers: list[int], inputs: dict[str, Any]) -> dict[int, Tensor]:
    """Hidden states [B, T, d] of chosen layers from one pass that ends at the last of them.

    Args:
        call: the module to call: the base's model or the stack on it.
        layers: 1-based; layer l is what leaves the l-th readable block, before any final norm.
        inputs: model inputs; targets of a decoder are ignored.
    """
    blocks = readable_blocks(base)
    if base.modality is not TEXT:
        given = {base.modality.key: inputs[base.modality.key].to(base.dtype)}
    else:
        given = {key: inputs[key] for key in _ENCODER_KEYS if inputs.get(key) is not None}
    if base.family == "causal":
        given["use_cache"] = False
        if accepts(base.model, "position_ids"):
            given.setdefault("position_ids", positions(given["attention_mask"]))
    with collect_hidden(blocks, layers) as found, _stop_after(blocks[max(layers) - 1]), contextlib.suppress(_Enough):
        call(**given)
    return found


@contextlib.contextmanager
def _stop_after(block: nn.Module) -> Iterator[None]:
    def stop(_module: nn.Module, _args: Any, _output: Any) -> None:
        raise _Enough

    handle = block.register_forward_hook(stop)  # hooks run in the order of registration: the collector's came first
    try:
        yield
    finally:
        handle.remove()
