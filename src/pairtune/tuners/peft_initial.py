"""LoRA initialisers that take the first factors out of the base's weights, with the base left whole.

The papers train (W − s·B0·A0) + s·B·A, so that W itself is overwritten and switching the adapter off no longer gives
the base. Here the same function is installed beside W:

    W x + s · (B·A − B0·A0) x        W: [out, in]; A, A0: [r, in]; B, B0: [out, r]; A0, B0 frozen at their first values

with the difference taken first, so that the start is the base bit for bit. Stored, both are one LoRA of rank 2r:
s · [B, −B0] · [A; A0]. (PiSSA: arXiv 2404.02948; OLoRA: arXiv 2406.01775; CorDA: arXiv 2406.05223.)
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

INITIAL = "_initial"
_TAKES = ("pissa", "olora", "corda", "lora_ga", "loftq")


def takes_from_base(config: PeftConfig) -> str | None:
    """The initialiser's name if it takes factors out of the base's weights."""
    kind = getattr(config, "init_lora_weights", None)
    return kind if isinstance(kind, str) and kind.lower().startswith(_TAKES) else None


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """While inside, the model's matrices are copies that may be overwritten; afterwards its own are back."""
    kept: list[tuple[nn.Module, str, nn.Parameter]] = []
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.ndim >= 2 and parameter.is_floating_point():
                kept.append((module, name, parameter))
    try:
        for module, name, parameter in kept:
            module._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
        yield
    finally:
        for module, name, parameter in kept:
            module._parameters[name] = parameter


def keep_initial(model: PeftModel, adapter: str) -> None:
    """Keep the first factors of `adapter`, which has just been initialised, frozen beside it, and subtract them."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import LoraVariant

    class Difference(LoraVariant):
        """s · (B·A x − B0·A0 x), in PEFT's place for a layer's own arithmetic."""

        @staticmethod
        def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **_more: Any) -> Tensor:
            first = active_adapter + INITIAL
            dropped = module.lora_dropout[active_adapter](x)  # what was taken out of W is not, as in the papers
            now = module.lora_B[active_adapter](module.lora_A[active_adapter](dropped))
            then = module.lora_B[first](module.lora_A[first](x))
            return result + (now - then) * module.scaling[active_adapter]

    name = adapter + INITIAL
    for layer in model.modules():
        if not isinstance(layer, LoraLayer) or adapter not in layer.lora_A:
            continue
        for factors in (layer.lora_A, layer.lora_B):
            factors[name] = copy.deepcopy(factors[adapter]).requires_grad_(False)
        layer.lora_variant[adapter] = Difference()
        layer.r[name], layer.lora_alpha[name] = layer.r[adapter], layer.lora_alpha[adapter]
        layer.scaling[name] = -layer.scaling[adapter]


def doubled(
    trained: Mapping[str, Tensor], initial: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """PEFT's tensors and configuration of the plain LoRA of twice the rank that equals the trained one."""
    tensors = dict(trained)
    for name, first in initial.items():
        down = ".lora_A." in name
        tensors[name] = torch.cat([trained[name], first if down else -first], dim=0 if down else 1)
    # alpha / rank stays, or alpha / sqrt(rank) where the scale is rank-stabilised.
    factor = 2**0.5 if config.get("use_rslora") else 2
    result = dict(config) | {
        "init_lora_weights": True,
        "corda_config": None,
        "r": 2 * config["r"],
        "lora_alpha": factor * config["lora_alpha"],
        "rank_pattern": {k: 2 * v for k, v in (config.get("rank_pattern") or {}).items()},
        "alpha_pattern": {k: factor * v for k, v in (config.get("alpha_pattern") or {}).items()},
    }
    return tensors, result


def halved(config: PeftConfig, tensors: Mapping[str, Tensor]) -> tuple[PeftConfig, dict[str, Tensor]]:
    """What `doubled` was made of: the configuration at half the rank, and a state with its `initial.` factors.

    Raises `ValueError` where the rank is odd.
    """
    rank = int(config.r)  # type: ignore[attr-defined]
    if rank % 2:
        raise ValueError(f"its rank is {rank}, expected an even one: half trains, half is what it began with")
    config.r, config.lora_alpha = rank // 2, config.lora_alpha / 2  # type: ignore[attr-defined]
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        down, up = ".lora_A." in name, ".lora_B." in name
        if not (down or up):
            state[name] = tensor
            continue
        trained, first = tensor.chunk(2, dim=0 if down else 1)
        state[name], state[f"initial.{name}"] = trained.contiguous(), first if down else -first
    return config, state
