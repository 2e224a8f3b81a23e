"""Linear layers made of Kronecker products, of which all layers of a model share one factor (PHM, low rank)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SPREAD = 1e-4  # standard deviation of the shared factor at the start; at zero the others would have no gradient


class Rule(nn.Module):
    """The factor A [n, n, n] that all layers share: the rule of multiplication."""

    def __init__(self, n: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n, n, n) * SPREAD)


class PHMLinear(nn.Module):
    """y = x W + b with W = Σ_i A_i ⊗ B_i, B_i = s_i t_i.

    A_i: [n, n], shared; s_i: [k / n, rank]; t_i: [rank, d / n]; W: [k, d]. It is made in float32, as its numbers are of
    the order of 1e-4, and kept while nothing trains.

    Args:
        width: k, of the input. out: d, of the output; n must divide both.
        rule: the owner of A; it is not a part of this module, so that A is stored once.
    """

    def __init__(self, width: int, out: int, rank: int, rule: Rule):
        super().__init__()
        n = rule.weight.shape[0]
        self._rule = (rule,)  # in a tuple, where the module does not look for parts
        self.left = nn.Parameter(torch.empty(n, width // n, rank))
        self.right = nn.Parameter(torch.empty(n, rank, out // n))
        self.bias = nn.Parameter(torch.zeros(out))
        for factor in (self.left, self.right):
            for one in factor:
                nn.init.xavier_uniform_(one, gain=2**0.5)
        self._kept: tuple[tuple[int, ...], Tensor] | None = None

    def weight(self) -> Tensor:
        """W [k, d] in float32."""
        rule = self._rule[0].weight
        wide = torch.einsum("nac,nkr,nrp->akcp", rule.float(), self.left.float(), self.right.float())
        return wide.reshape(wide.shape[0] * wide.shape[1], -1)

    def forward(self, x: Tensor) -> Tensor:
        """[..., k] to [..., d]."""
        return functional.linear(x, self._weight().to(x.dtype).T, self.bias.to(x.dtype))

    def _weight(self) -> Tensor:
        if torch.is_grad_enabled():
            return self.weight()
        versions = tuple(one._version for one in (self._rule[0].weight, self.left, self.right))
        if self._kept is None or self._kept[0] != versions or self._kept[1].device != self.left.device:
            self._kept = (versions, self.weight())
        return self._kept[1]


class PHMBottleneck(nn.Module):
    """Two such layers with GELU between them, down to the bottleneck and up again."""

    def __init__(self, width: int, narrow: int, rank: int, rule: Rule):
        super().__init__()
        self.down, self.up = PHMLinear(width, narrow, rank, rule), PHMLinear(narrow, width, rank, rule)

    def forward(self, u: Tensor) -> Tensor:
        """[..., d] to [..., d]."""
        return self.up(functional.gelu(self.down(u), approximate="tanh"))
