"""Small text models that are trained from scratch beside a base: token ids in, one vector a text out.

Each has its own embedding table over the base's vocabulary and nothing else of the base, so that what it learns is a
view of its own. Padding, on either side and of any length, does not change a result.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 4
LAYERS = 2
_WIDTHS = (3, 5, 7)  # tokens that a filter of the convolutional model sees


class SmallTransformer(nn.Module):
    """Two pre-norm Transformer layers of four heads over token embeddings, then the masked mean.

    Args:
        rows: size of the vocabulary.
        width: d_Q, a multiple of 4.
        dropout: after the embeddings and on each branch.
        source: width of given token vectors that take the place of the own embeddings; None for an own table.
    """

    def __init__(self, rows: int, width: int, dropout: float, source: int | None = None):
        super().__init__()
        self.embed = _embedding(rows, width) if source is None else nn.Linear(source, width)
        self.layers = nn.ModuleList(_Layer(width, dropout) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens: [B, T] ids or [B, T, source] vectors; mask: [B, T], 1 where real → [B, d_Q]."""
        real = mask.bool()
        x = self.embed(tokens)
        x = self.dropout(x + _positions(real, x.shape[-1]).to(x.dtype))
        for layer in self.layers:
            x = layer(x, real)
        x = self.norm(x).masked_fill(~real.unsqueeze(-1), 0.0)
        return x.sum(1) / real.sum(1, keepdim=True).clamp(min=1)


class SmallCNN(nn.Module):
    """Filters over 3, 5 and 7 tokens, the largest response of each, one linear layer (as for `SmallTransformer`)."""

    def __init__(self, rows: int, width: int, dropout: float, source: int | None = None):
        super().__init__()
        self.embed = _embedding(rows, width) if source is None else nn.Linear(source, width)
        self.filters = nn.ModuleList(nn.Conv1d(width, width, size, padding=size // 2) for size in _WIDTHS)
        self.out = nn.Linear(width * len(_WIDTHS), width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens: [B, T] ids or [B, T, source] vectors; mask: [B, T] → [B, d_Q]."""
        real = mask.bool().unsqueeze(-1)
        x = self.dropout(self.embed(tokens)).masked_fill(~real, 0.0).transpose(1, 2)
        responses = [F.relu(conv(x)).transpose(1, 2).masked_fill(~real, 0.0).amax(1) for conv in self.filters]
        return self.out(self.dropout(torch.cat(responses, dim=-1)))


class _Layer(nn.Module):
    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(b, t, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None, :])
        x = x + self.dropout(self.proj(mixed.transpose(1, 2).reshape(b, t, d)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm_2(x)))))


def _embedding(rows: int, width: int) -> nn.Embedding:
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, std=0.02)
    return table


def _positions(real: Tensor, width: int) -> Tensor:
    """[B, T, d] sinusoids of the place among the real tokens, so that padding does not shift them."""
    place = (real.long().cumsum(1) - 1).clamp(min=0).unsqueeze(-1)
    steps = torch.arange(0, width, 2, device=real.device)
    angle = place * torch.exp(steps * (-math.log(10000.0) / width))
    # Small beside the embeddings' own spread of 0.02, as what a token is matters more than where.
    return 0.02 * torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(2)
