"""Next-token cross-entropy through a large output layer, without keeping the logits.

At this size the vocabulary layer is about 40 % of the arithmetic, and its logits (tokens x 8192 in float32) would leave
every cache several times. Here each chunk of rows computes its logits, its loss and its
gradients while they are in cache.
"""

from __future__ import annotations

import torch
from torch import Tensor


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, target: Tensor, chunk: int, dtype: torch.dtype) -> Tensor:
        low_hidden, low_weight = hidden.to(dtype), weight.to(dtype)
        grad_hidden = torch.empty_like(low_hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        count = target.numel()
        for start in range(0, count, chunk):
            rows, wanted = low_hidden[start : start + chunk], target[start : start + chunk, None]
            logits = (rows @ low_weight.T).float()
            lse = torch.logsumexp(logits, dim=-1, keepdim=True)
            total += (lse - logits.gather(1, wanted)).sum()
            logits.sub_(lse).exp_().scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=torch.float32))
            error = logits.to(dtype)
            grad_hidden[start : start + chunk] = error @ low_weight
            grad_weight += error.T @ rows
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.count, ctx.hidden_dtype = count, hidden.dtype
        return total / count

    @staticmethod
    def backward(ctx, grad: Tensor):
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grad / ctx.count
        return (grad_hidden * scale).to(ctx.hidden_dtype), grad_weight * scale, None, None, None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, target: Tensor, chunk: int = 256, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """Mean cross-entropy of `hidden[n, d] @ weight[V, d].T` against `target[n]`; products in `dtype`, sums in fp32."""
    return _LinearCrossEntropy.apply(hidden, weight, target, chunk, dtype)
