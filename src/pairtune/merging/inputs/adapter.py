"""A PEFT LoRA folder as a delta, read from its files alone; the model is not built."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pairtune.errors import DeltaMismatch, FormatError
from pairtune.pair.delta import Delta
from pairtune.pair.files import SafetensorsFile, open_safetensors, read_json
from pairtune.pair.hub import ADAPTER_FILE
from pairtune.pair.parts import LowRank, Module, Part, Value
from pairtune.pair.tensor_names import some

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Settings under which an adapter is more than W + scale · B A; its tuner then has to say what it does.
_OTHERWISE = ("use_dora", "lora_bias", "layer_replication", "target_parameters", "trainable_token_indices")
_FROM_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "eva")
_FACTORS = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.weight)?")


def read_adapter(folder: Path, base: Mapping[str, Tensor]) -> Delta | None:
    """The delta of a plain LoRA adapter, by the names of the base's tensors; None for any other adapter.

    A: [r, in] and B: [out, r] are memory-mapped. Modules that were trained whole become values, and new ones (a head)
    modules of their own. Raises `DeltaMismatch` for tensors that do not fit the base, a half of a pair that is missing,
    and NaN or infinite values.
    """
    config = read_json(folder / ADAPTER_FILE)
    initial = config.get("init_lora_weights")
    if (
        str(config.get("peft_type", "LORA")).upper() != "LORA"
        or any(config.get(name) for name in _OTHERWISE)
        or config.get("bias", "none") != "none"
        or (isinstance(initial, str) and initial.startswith(_FROM_BASE))
    ):
        return None
    stored = open_safetensors(folder / WEIGHTS)
    if broken := stored.non_finite():
        raise DeltaMismatch(f"{folder}: NaN or infinite values in {some(broken)}")
    places = {name.partition(".")[2]: name for name in base} | {name: name for name in base}
    factors, whole = _sorted_out(stored)
    parts: dict[str, Part] = {}
    for module, sides in factors.items():
        name = _place(f"{module}.weight", places)
        if name is None:
            return None
        part = _product(folder, module, sides, config)
        shape = tuple(base[name].shape)
        if part.shape != shape or (shape[0] == shape[1] and config.get("fan_in_fan_out")):
            if part.shape != shape[::-1]:
                raise DeltaMismatch(
                    f"{folder}: the factors of {module} make {list(part.shape)}, the base has {list(shape)}"
                )
            part = LowRank(part.B.T, part.A.T, part.scale)
        parts[name] = part
    for module, tensor in whole.items():
        name = _place(module, places)
        parts[name or module] = Module(tensor) if name is None else Value(tensor)
    return Delta(parts, base.__getitem__)


def _sorted_out(stored: SafetensorsFile) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The factors by module, and the tensors that were trained whole, by their names in the model."""
    factors: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for key in stored:
        found = _FACTORS.fullmatch(key.removeprefix(_PREFIX))
        tensor = stored.tensor(key)
        if found is None:
            whole[key.removeprefix(_PREFIX)] = tensor
        elif found["embedding"]:  # the change of an embedding is (B A)ᵀ: its rows are tokens
            factors.setdefault(found["module"], {})["B" if found["side"] == "A" else "A"] = tensor.T
        else:
            factors.setdefault(found["module"], {})[found["side"]] = tensor
    return factors, whole


def _product(folder: Path, module: str, sides: Mapping[str, Tensor], config: Mapping[str, Any]) -> LowRank:
    if sides.keys() != {"A", "B"}:
        raise DeltaMismatch(f"{folder}: lora_{'B' if 'A' in sides else 'A'} of {module} is missing")
    part = LowRank(sides["A"], sides["B"])
    try:
        own = [a for key, a in (config.get("alpha_pattern") or {}).items() if re.fullmatch(rf"(.*\.)?({key})", module)]
    except (re.error, AttributeError) as error:
        raise FormatError(f"{folder / ADAPTER_FILE}: alpha_pattern should map patterns to numbers ({error})") from None
    alpha = own[0] if own else config.get("lora_alpha")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise FormatError(f"{folder / ADAPTER_FILE}: lora_alpha should be a number, found {alpha!r}")
    rank = max(part.rank, 1)
    return LowRank(part.A, part.B, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _place(name: str, places: Mapping[str, str]) -> str | None:
    """The base's own name of a tensor that the adapter names as the model has it in memory."""
    return places.get(name) or places.get(name.partition(".")[2])
