"""LoRA initialisers that take the first factors out of the base's weights, with the base left whole.

The papers train (W − s·B0·A0) + s·B·A, so that W itself is overwritten and switching the adapter off no longer gives
the base. Here the same function is installed beside W:

    W x + s · (B·A − B0·A0) x        W: [out, in]; A, A0: [r, in]; B, B0: [out, r]; A0, B0 frozen at their first values

as a second, frozen adapter with the scale −s; stored, both are one LoRA of rank 2r: s · [B, −B0] · [A; A0]. (PiSSA:
arXiv 2404.02948; OLoRA: arXiv 2406.01775; CorDA: arXiv 2406.05223.)
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pairtune.errors import InputError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel

    from pairtune.pair.base import Base

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
    """Add the frozen adapter −s·B0·A0 beside `adapter`, which has just been initialised."""
    from peft.tuners.lora import LoraLayer

    name = adapter + INITIAL
    for layer in model.modules():
        if not isinstance(layer, LoraLayer) or adapter not in layer.lora_A:
            continue
        for factors in (layer.lora_A, layer.lora_B):
            factors[name] = copy.deepcopy(factors[adapter]).requires_grad_(False)
        layer.lora_dropout[name] = nn.Identity()  # the part taken out of W is not dropped, as in the papers
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


def measure_covariance(base: Base, config: LoraConfig, calibration: Iterable[dict[str, Any]] | None) -> None:
    """Run CorDA's preparation: covariances of the layers' inputs over calibration batches, one row at a time.

    Raises `InputError` without calibration batches.
    """
    if calibration is None:
        raise InputError(
            "init corda looks at data before it starts: give calibration batches (the training split will do)"
        )
    from peft.tuners.lora.config import CordaConfig

    try:
        from peft.tuners.lora.corda import preprocess_corda
    except ImportError as error:
        raise InputError(
            f"init corda: PEFT's CorDA needs a package that it does not declare ({error}): pip install attrs"
        ) from None
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers

    from pairtune.pair.outputs import model_inputs

    config.corda_config = config.corda_config or CordaConfig(corda_method="ipm")
    if config.target_modules == "all-linear":
        _maybe_include_all_linear_layers(config, base.model)
        # A pooler sees one vector a text, of which PEFT can make no covariance.
        inside = tuple(f"{name}." for name, _ in base.blocks)
        config.target_modules = [name for name in sorted(config.target_modules or ()) if name.startswith(inside)]

    def run() -> None:
        for batch in calibration:
            inputs = {name: value.to(base.device) for name, value in model_inputs(batch).items()}
            for row in range(len(inputs["input_ids"])):
                real = inputs["attention_mask"][row].bool()  # padding would count as data
                base.model(**{name: value[row : row + 1, real] for name, value in inputs.items()})

    preprocess_corda(base.model, config, run_model=run)
