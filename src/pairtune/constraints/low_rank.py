"""The trainable low-rank factors on a model, for penalties that need the size of their product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Factors:
    """One product scale · B · A. a: [r, in], b: [out, r]."""

    name: str
    a: Tensor
    b: Tensor
    scale: float

    def squared_norm(self) -> Tensor:
        """‖scale · B · A‖² (Frobenius) without making the product: Σ (BᵀB) ∘ (A Aᵀ)."""
        a, b = self.a.float(), self.b.float()
        return self.scale**2 * ((b.T @ b) * (a @ a.T)).sum()


def low_rank_factors(model: nn.Module) -> Iterator[Factors]:
    """The active LoRA factors of linear layers. Forms whose change is not scale · B · A (DoRA, embeddings,
    convolutions) are left out, so that whoever counts the parameters finds them missing."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        for adapter in module.active_adapters:
            if adapter not in module.lora_A or adapter in module.lora_magnitude_vector:
                continue
            a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
            if a.ndim == b.ndim == 2:
                yield Factors(name, a, b, float(module.scaling[adapter]))
