"""A PEFT adapter as a delta: thin factors for LoRA, by the names on disk; for every other method its own tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pairtune.errors import InputError
from pairtune.pair.delta import Delta
from pairtune.pair.part import Part
from pairtune.pair.parts import Dense, LowRank, Module, Value
from pairtune.tuners.peft_handle import InstalledPeft

if TYPE_CHECKING:
    from pairtune.pair.base import Base
    from pairtune.pair.installed import Installed


def extract_peft(installed: Installed) -> Delta:
    """The delta of an adapter; it shares memory with the adapter where nothing has to be computed.

    LoRA on linear layers and embeddings gives `LowRank` parts, DoRA and convolutions `Dense` ones. A new head gives
    `Module` parts, a head that the base had too `Value` ones. Any other PEFT method gives `Module` parts by PEFT's
    names, which can be stored and compared but not added into the base.
    """
    assert isinstance(installed, InstalledPeft)
    base = installed.base
    parts: dict[str, Part] = {}
    if "merge" not in installed.provides:
        return Delta({name: Module(value) for name, value in installed.stored().items()}, base=base.stored)
    names = {module: name for name, module in base.model.named_modules()}
    for layer in installed.layers:
        name = names[layer].replace(".base_layer", "")
        parts.update(_layer_parts(installed, f"{name}.weight", layer))
    for name, value in _heads(installed).items():
        for disk, piece in base.names.to_disk({name: value}).items():
            parts[disk] = Module(piece) if name in base.new_names else Value(piece)
    return Delta(parts, base=base.stored)


def _heads(installed: InstalledPeft) -> dict[str, Tensor]:
    """Parameters of the modules that are trained whole, by their names in the base's memory."""
    names = {module: name for name, module in installed.base.model.named_modules()}
    return {
        f"{names[module]}.{name}": parameter.detach()
        for module, parameters in installed.trained.items()
        for name, parameter in parameters.items()
    }


def _layer_parts(installed: InstalledPeft, memory: str, layer: Any) -> dict[str, Part]:
    base = installed.base
    if base.names.tied.get(memory, memory) not in base.parameters:
        raise InputError(f"{memory}: this adapter changes a tensor that is not a parameter of the base's own")
    disks = base.names.disk(memory)
    factors = _factors(installed, layer)
    if factors is not None and len(disks) == 1:
        return {disks[0]: LowRank(*factors)}
    change = layer.get_delta_weight(installed.adapter) if factors is None else factors[2] * factors[1] @ factors[0]
    if factors is None and layer.lora_magnitude_vector:
        change = _dora_change(base, memory, layer, installed.adapter, change)
    return {disk: Dense(piece) for disk, piece in base.names.to_disk({memory: change.detach()}).items()}


def _factors(installed: InstalledPeft, layer: Any) -> tuple[Tensor, Tensor, float] | None:
    """A [r, in], B [out, r] and the scale of the change of W as it is stored; None where it is no such product."""
    adapter = installed.adapter
    scale = float(installed.full_scale(layer))
    if adapter in layer.lora_embedding_A:
        # The change of an embedding is (B A)ᵀ: its rows are tokens.
        return layer.lora_embedding_B[adapter].detach().T, layer.lora_embedding_A[adapter].detach().T, scale
    if adapter in layer.lora_magnitude_vector or adapter not in layer.lora_A:
        return None
    a, b = layer.lora_A[adapter].weight.detach(), layer.lora_B[adapter].weight.detach()
    if a.ndim != 2 or layer.lora_bias.get(adapter):
        return None
    initial = adapter + "_initial"
    if initial in layer.lora_A:
        a = torch.cat([a, layer.lora_A[initial].weight.detach()])
        b = torch.cat([b, -layer.lora_B[initial].weight.detach()], dim=1)
    return (b.T, a.T, scale) if layer.fan_in_fan_out else (a, b, scale)


def _dora_change(base: Base, memory: str, layer: Any, adapter: str, change: Tensor) -> Tensor:
    """DoRA's W' − W with W' = m · (W + s·B·A) / ‖W + s·B·A‖ by output row (arXiv 2402.09353, equation 5)."""
    weight = base.parameters[base.names.tied.get(memory, memory)].detach().float()
    flipped = layer.fan_in_fan_out
    moved = weight + change.detach().float()
    rows = (moved.T if flipped else moved).flatten(1)
    size = layer.lora_magnitude_vector[adapter].weight.detach().float().flatten() / rows.norm(dim=1)
    tall = [-1] + [1] * (moved.ndim - 1)
    new = moved * (size if flipped else size.view(tall))
    return new - weight
