"""Summed −log p of target tokens, without ever holding a float32 copy of the logits.

The logits of a language model [B, T, V] are the largest tensor of a training step. Autograd through a float32
log-softmax would keep one or two more of that size and pass over each several times. The gradient of a sum is known as
soon as its softmax is: here the forward goes over slices that stay in a core's cache and writes loss and gradient in
one pass, so that beside the logits there is one tensor of their size and type, the gradient that autograd needs anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

AT_ONCE = 1 << 18  # elements of one float32 slice on a CPU: 1 MiB, what a core's cache holds
ON_ACCELERATOR = 1 << 24  # the same where many cores work on one slice


def summed_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """−Σ log softmax(logits)[target] over the positions whose target is not negative.

    Args:
        logits: [B, T, V] of any floating type; computed in float32 (float64 stays).
        targets: [B, T] token ids; negative ones are not scored.

    Returns: scalar, float32 (or float64). Differentiable once with respect to the logits, by one backward.
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
        gradient = torch.empty_like(flat) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=wide(logits.dtype), device=logits.device)
        scored = chosen >= 0
        for part, count in _slices(scored, flat.shape[-1]):
            whole = count == part.stop - part.start
            own = slice(None) if whole else scored[part]
            log_p = torch.log_softmax(flat[part][own], -1, dtype=total.dtype)
            ids = chosen[part][own].unsqueeze(-1)
            total -= log_p.gather(-1, ids).sum()
            if gradient is not None:
                slope = log_p.exp_().scatter_add_(-1, ids, log_p.new_full(ids.shape, -1.0))
                if not whole:
                    gradient[part] = 0
                gradient[part][own] = slope.to(gradient.dtype)
        ctx.save_for_backward(gradient)
        ctx.shape = logits.shape
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(outer).view(ctx.shape), None


def _slices(scored: Tensor, width: int) -> list[tuple[slice, int]]:
    """Slices of rows of `width` elements, at most `AT_ONCE` elements each, and how many of their rows are scored."""
    step = max(1, (AT_ONCE if scored.device.type == "cpu" else ON_ACCELERATOR) // width)
    here = scored.cpu()  # one wait for the device, not one a slice
    parts = [slice(start, min(start + step, len(here))) for start in range(0, len(here), step)]
    return [(part, int(here[part].sum())) for part in parts]
