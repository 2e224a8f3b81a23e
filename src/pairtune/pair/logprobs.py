"""The log-probability that a language model gives to each token of a text, without the big logits tensor.

A batch × length × vocabulary float32 tensor is the largest thing in scoring and nothing of it is needed but one number
a token. So the head runs over slices of positions. It runs inside the model's own forward (whose backbone hands back
the hidden states it already has), so that whatever the model does around its head, scales, biases or soft-caps, stays.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pairtune.errors import MissingView

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Elements of one slice of logits, 16 MiB in float32: it stays in a processor's cache, and memory of this size is used
# again instead of being asked from the system anew for every slice.
LOGITS_AT_ONCE = 1 << 22
_NONE = -100  # a target that is not scored


def token_log_probs(
    call: nn.Module, inner: PreTrainedModel, inputs: dict[str, Any], targets: Tensor, by_head: bool = True
) -> Tensor:
    """log p(target at t | everything before t), per token.

    Args:
        call: the module to call (the model itself or a wrapper around it).
        inner: the transformers model inside it, which owns the head.
        inputs: model inputs of a batch [B, T].
        targets: [B, T] token ids; for a decoder-only model the token that position t - 1 predicts, for an
            encoder-decoder model the token that decoder position t predicts. Negative ids are not scored.
        by_head: whether what is said is the head's product, as `Pair.by_head` has it; else the logits are read whole.

    Returns: [B, T] float32, 0 where the target is negative.
    """
    if inner.config.is_encoder_decoder or not by_head or not _separable(inner):
        return _by_rows(call, inner, inputs, targets)
    rows, length = targets.shape
    before = torch.arange(length - 1, device=targets.device).expand(rows, -1)
    found = selected_log_probs(call, inner, inputs, before, targets[:, 1:])
    return torch.nn.functional.pad(found, (1, 0))


def selected_log_probs(
    call: nn.Module, inner: PreTrainedModel, inputs: dict[str, Any], places: Tensor, targets: Tensor
) -> Tensor:
    """log p(target) as predicted at chosen positions of a decoder-only model, by its head.

    Args:
        places: [B, N] the positions whose outputs predict.
        targets: [B, N] what they should predict; negative ids are not scored.

    Returns: [B, N] float32, 0 where the target is negative. Raises `MissingView` where there is no such head.
    """
    if not _separable(inner):
        raise MissingView(f"{type(inner).__name__} has no separable language-model head")
    hidden = _head_input(call, inner, inputs)[:, -inputs["input_ids"].shape[1] :]
    scored = targets >= 0
    rows = torch.arange(len(targets), device=hidden.device)[:, None].expand_as(targets)
    # Row by row one after the other: padding is left out, and what the head reads lies in one piece.
    chosen, wanted = hidden[rows[scored], places[scored]], targets[scored]
    found = torch.empty(len(wanted), dtype=torch.float32, device=hidden.device)
    step = max(1, LOGITS_AT_ONCE // _head(inner).weight.shape[0])
    for start in range(0, len(wanted), step):
        part = slice(start, start + step)
        found[part] = _gather(_run_head(inner, chosen[None, part])[0], wanted[part])
    result = torch.zeros(targets.shape, dtype=torch.float32, device=hidden.device)
    result[scored] = found
    return result


def _by_rows(call: nn.Module, inner: PreTrainedModel, inputs: dict[str, Any], targets: Tensor) -> Tensor:
    """The plain way, a few rows at a time so that the logits stay small."""
    shift = 0 if inner.config.is_encoder_decoder else 1
    rows, length = targets.shape
    step = max(1, LOGITS_AT_ONCE // (_head(inner).weight.shape[0] * max(length, 1)))
    result = torch.zeros(targets.shape, dtype=torch.float32, device=targets.device)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        logits = call(**{k: v[part] if isinstance(v, Tensor) else v for k, v in inputs.items()}).logits
        logits = logits[:, -length:]
        result[part, shift:] = _gather(logits[:, : length - shift], targets[part, shift:])
    return result


def _gather(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-softmax at the targets in float32; 0 where a target is negative. One fused pass over the logits."""
    flat = targets.masked_fill(targets < 0, _NONE).reshape(-1)
    found = F.cross_entropy(logits.float().flatten(0, -2), flat, ignore_index=_NONE, reduction="none")
    return found.neg_().view(targets.shape)


def _head(inner: PreTrainedModel) -> Any:
    """The language-model head."""
    head = inner.get_output_embeddings()
    if head is None:
        raise MissingView(f"{type(inner).__name__} has no language-model head")
    return head


def _separable(inner: PreTrainedModel) -> bool:
    """Whether the model has a head that can run without its backbone."""
    return inner.base_model is not inner and inner.get_output_embeddings() is not None


def _head_input(call: nn.Module, inner: PreTrainedModel, inputs: dict[str, Any]) -> Tensor:
    """One pass that ends at the head: its input [B, T, d] at every position, its product at one only."""
    caught: list[Tensor] = []

    def catch(_module, args):
        caught.append(args[0])
        return (args[0][:, -1:], *args[1:])

    handle = _head(inner).register_forward_pre_hook(catch)
    try:
        call(**inputs, **_no_cache(inner))
    finally:
        handle.remove()
    return caught[-1]


def _run_head(inner: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The model's forward from its head on, [B, S, d] → [B, S, V]; its backbone is not run again."""
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions  # whose last field GPT-2 reads

    def feed(_module, args):
        return (hidden, *args[1:])

    handle = _head(inner).register_forward_pre_hook(feed)
    try:
        with returning(inner.base_model, BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden)):
            ids = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)
            return inner(input_ids=ids, **_no_cache(inner)).logits
    finally:
        handle.remove()


@contextlib.contextmanager
def returning(module: nn.Module, value: Any) -> Iterator[None]:
    """While inside, calling `module` gives `value` at once; its hooks still run."""
    own = module.__dict__.get("forward")
    module.forward = lambda *args, **kwargs: value  # type: ignore[method-assign]
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own  # type: ignore[method-assign]


def _no_cache(inner: nn.Module) -> dict[str, Any]:
    return {"use_cache": False} if accepts(inner, "use_cache") else {}


def accepts(module: nn.Module, name: str) -> bool:
    """Whether a module's forward has a parameter of this name."""
    return name in inspect.signature(type(module).forward).parameters
