"""The trained low-rank factors on a model, for penalties that need the size of their product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Factors:
    """One change of a matrix, B · A with the scale inside B. a: [r, in], b: [out, r].

    `trained` are the Parameters that it is made of; a frozen part (first factors taken from the base) may be beside
    them.
    """

    name: str
    a: Tensor
    b: Tensor
    trained: tuple[nn.Parameter, ...]

    def squared_norm(self) -> Tensor:
        """‖B · A‖² (Frobenius) without making the product: Σ (BᵀB) ∘ (A Aᵀ)."""
        a, b = self.a.float(), self.b.float()
        return ((b.T @ b) * (a @ a.T)).sum()


def low_rank_factors(model: nn.Module) -> Iterator[Factors]:
    """The trained LoRA factors of linear layers. Forms whose change is not scale · B · A (DoRA, embeddings,
    convolutions) are left out, so that whoever counts the parameters finds them missing."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            for adapter in layer.lora_A:
                a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
                if a.requires_grad and a.ndim == b.ndim == 2 and adapter not in layer.lora_magnitude_vector:
                    # `<adapter>_...` is the frozen part that an initialiser put beside it.
                    parts = [adapter, *(other for other in layer.lora_A if other.startswith(f"{adapter}_"))]
                    downs = [layer.lora_A[part].weight for part in parts]
                    ups = [layer.scaling[part] * layer.lora_B[part].weight for part in parts]
                    yield Factors(name, torch.cat(downs), torch.cat(ups, dim=1), (a, b))
