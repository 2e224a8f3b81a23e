"""The module of LEVI: adapting heads on the base's blocks and on a small model's view of the raw input.

Shapes: B texts, K adapting heads, C outputs, d_P width of the base, d_Q width of the small model, m hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils.generic import ModelOutput

from pairtune.tuners.pooling import hidden_states, pool, readable_blocks

if TYPE_CHECKING:
    from pairtune.pair.base import Base


@dataclass
class LeviOutput(ModelOutput):
    """logits: [B, C]; views: what the objective fits, K heads with weight a/K each and their mean with weight b."""

    logits: Tensor | None = None
    views: list[tuple[Tensor, float]] | None = None


class AdaptingHeads(nn.Module):
    """K heads A_k: LayerNorm_k of the block's vector, joined with z, then Linear - GELU - Dropout - Linear.

    The first linear layer's columns for the block and for z are kept apart (`from_base`, `from_small`), which is the
    same map as one layer on the joined vector, and all heads are computed together. Norms and biases of all heads are
    one vector each, so that an optimizer knows them for what they are and does not decay them.

    Args:
        heads: K. base_width: d_P, 0 without the base. small_width: d_Q, 0 without the small model.
        hidden: m. outputs: C. depth: 2, or 1 for a linear head. dropout: between the two layers.
    """

    def __init__(
        self, heads: int, base_width: int, small_width: int, hidden: int, outputs: int, depth: int, dropout: float
    ):
        super().__init__()
        inner = hidden if depth == 2 else outputs
        joined = base_width + small_width
        whole = torch.empty(heads, inner, joined)
        bound = joined**-0.5  # as torch initialises a linear layer of this width
        nn.init.uniform_(whole, -bound, bound)
        if depth == 1:
            nn.init.normal_(whole, std=0.02)
        if base_width:
            self.norm_weight = nn.Parameter(torch.ones(heads * base_width))
            self.norm_bias = nn.Parameter(torch.zeros(heads * base_width))
            self.from_base = nn.Parameter(whole[:, :, :base_width].clone())
        if small_width:
            self.from_small = nn.Parameter(whole[:, :, base_width:].clone())
        self.bias = nn.Parameter(torch.zeros(heads * inner))
        if depth == 2:
            nn.init.uniform_(self.bias, -bound, bound)
            self.out_weight = nn.Parameter(torch.empty(heads, outputs, hidden).normal_(std=0.02))
            self.out_bias = nn.Parameter(torch.zeros(heads * outputs))
        self.depth, self.heads = depth, heads
        self.dropout = nn.Dropout(dropout)
        self.shares: list[Tensor] = []

    def forward(self, pooled: Tensor | None, z: Tensor | None) -> Tensor:
        """pooled: [B, K, d_P] or None; z: [B, d_Q] or None → logits [B, K, C]."""
        x = self.bias.view(1, self.heads, -1)
        sizes = []
        if pooled is not None:
            h = F.layer_norm(pooled, pooled.shape[-1:]) * self.norm_weight.view(self.heads, -1)
            h = h + self.norm_bias.view(self.heads, -1)
            of_base = torch.einsum("bkd,kmd->bkm", h, self.from_base)
            sizes.append(of_base)
            x = x + of_base
        if z is not None:
            of_small = torch.einsum("bd,kmd->bkm", z, self.from_small)
            sizes.append(of_small)
            x = x + of_small
        if self.training and len(sizes) == 2:
            base, small = (size.detach().norm(dim=-1).mean(0) for size in sizes)
            self.shares = [*self.shares[-99:], small / (base + small)]
        if self.depth == 1:
            return x
        return torch.einsum("bkm,kcm->bkc", self.dropout(F.gelu(x)), self.out_weight) + self.out_bias.view(
            self.heads, -1
        )


class LeviModel(nn.Module):
    """A frozen base, a small model and adapting heads, called like a transformers model.

    Args:
        base: the loaded base.
        call: the module that gives the base's activations (the base's model, or a stack on it).
        layers: 1-based blocks that the heads stand on; empty for none.
        how: pooling: "mean", "first" or "last".
        heads, small: the trained parts; small may be None.
        weights: (a, b), of the single heads together and of their mean.
        reads_base: whether the small model's input is the base's last hidden states instead of the ids.
        gradients: whether gradients flow into the base (an adapter trains there).
    """

    def __init__(
        self,
        base: Base,
        call: nn.Module,
        layers: Sequence[int],
        how: str,
        heads: AdaptingHeads,
        small: nn.Module | None,
        weights: tuple[float, float],
        reads_base: bool = False,
        gradients: bool = False,
    ):
        super().__init__()
        self.base_model, self.small, self.heads = call, small, heads
        self.config = base.model.config
        self.layers, self.how, self.weights = list(layers), how, weights
        self.reads_base, self.gradients = reads_base, gradients
        self.chosen = -1  # the head whose logits are the prediction; -1: the mean of all
        self._base = [base]  # in a list, so that torch does not look for modules in it

    def train(self, mode: bool = True) -> LeviModel:
        """A frozen base stays in evaluation mode, else its dropout would make every epoch's features another."""
        super().train(mode)
        if not self.gradients:
            self.base_model.eval()
        return self

    def features(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """{"pooled": [B, K, d_P]}, and {"last": [B, T, d_P]} where the small model reads the base."""
        layers = self.layers
        last = len(readable_blocks(self._base[0]))
        wanted = sorted(set(layers + [last] * self.reads_base))
        if not wanted:
            return {}
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.gradients):
            found = hidden_states(self._base[0], self.base_model, wanted, inputs)
            mask = inputs["attention_mask"]
            result = {}
            if layers:
                result["pooled"] = torch.stack([pool(found[layer], mask, self.how) for layer in layers], dim=1)
            if self.reads_base:
                result["last"] = found[last].float()
        return result

    def forward(self, features: dict[str, Tensor] | None = None, **inputs: Any) -> LeviOutput:
        """Logits and views of a batch: `input_ids`, `attention_mask` [B, T]; with `features` the base is not run."""
        features = self.features(inputs) if features is None else features
        logits = self.head_logits(features, inputs)
        mean = logits.mean(1)
        a, b = self.weights
        views = [(logits[:, k], a / self.heads.heads) for k in range(self.heads.heads)] if a else []
        views += [(mean, b)] if b else []
        return LeviOutput(logits=mean if self.chosen < 0 else logits[:, self.chosen], views=views)

    def head_logits(self, features: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
        """[B, K, C]: what each head says."""
        z = None
        if self.small is not None:
            z = self.small(features["last"] if self.reads_base else inputs["input_ids"], inputs["attention_mask"])
        return self.heads(features.get("pooled"), z)


def output_ensemble(logits: Sequence[Tensor]) -> Tensor:
    """Mean of the logits [B, C] of models that were trained apart: the ablation that only ensembling would explain."""
    return torch.stack([one.float() for one in logits]).mean(0)


def best_head(heads: Tensor, labels: Tensor) -> int:
    """The head that alone is best on ID validation: highest accuracy for class indices, else lowest squared error.

    heads: [N, K, C] logits; labels: [N] class indices, or [N] / [N, C] numbers. The first of equal heads.
    """
    if labels.is_floating_point():
        error = (heads - labels.reshape(len(labels), 1, -1)).square().mean((0, 2))
        return int(error.argmin())
    return int((heads.argmax(-1) == labels.unsqueeze(1)).float().mean(0).argmax())
