"""Summed −log p of target tokens, without ever holding a float32 copy of the logits.

The logits of a language model [B, T, V] are the largest tensor of a training step. Autograd through a float32
log-softmax would keep one or two more of that size. Here the forward goes over slices of the scored positions and keeps
one number a position (the log of the normaliser); the backward makes the softmax again, slice by slice, in place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

AT_ONCE = 1 << 22  # elements of one float32 slice: 16 MiB


def summed_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """−Σ log softmax(logits)[target] over the positions whose target is not negative.

    Args:
        logits: [B, T, V] of any floating type; computed in float32 (float64 stays).
        targets: [B, T] token ids; negative ones are not scored.

    Returns: scalar, float32 (or float64). Differentiable once with respect to the logits.
    """
    return _SummedNLL.apply(logits, targets)  # type: ignore[return-value]


def next_tokens(labels: Tensor) -> Tensor:
    """[B, T] labels → [B, T] the token that each position predicts in a decoder-only model (last column: none)."""
    return torch.cat([labels[:, 1:], labels.new_full((labels.shape[0], 1), -100)], dim=1)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type to compute a log-softmax in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class _SummedNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        flat, chosen = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
        rows = (chosen >= 0).nonzero().squeeze(-1)
        norms = torch.empty(len(rows), dtype=wide(logits.dtype), device=logits.device)
        total = torch.zeros((), dtype=wide(logits.dtype), device=logits.device)
        for part in slices(len(rows), flat.shape[-1]):
            piece = flat[rows[part]].to(norms.dtype)
            norms[part] = piece.logsumexp(-1)
            total += norms[part].sum() - piece.gather(-1, chosen[rows[part], None]).sum()
        ctx.save_for_backward(logits, chosen, rows, norms)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        logits, chosen, rows, norms = ctx.saved_tensors
        flat = logits.reshape(-1, logits.shape[-1])
        result = torch.zeros_like(flat)
        for part in slices(len(rows), flat.shape[-1]):
            piece = (flat[rows[part]].to(norms.dtype) - norms[part, None]).exp_()
            piece[torch.arange(len(piece), device=piece.device), chosen[rows[part]]] -= 1
            result[rows[part]] = (piece * gradient).to(result.dtype)
        return result.view_as(logits), None


def slices(count: int, width: int) -> list[slice]:
    """Slices of `count` rows of `width` elements that hold at most `AT_ONCE` elements each."""
    step = max(1, AT_ONCE // width)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
