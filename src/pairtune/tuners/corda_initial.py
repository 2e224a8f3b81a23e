"""CorDA's decomposition: the singular vectors of W C, as PEFT's initialiser takes them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pairtune.errors import InputError
from pairtune.tuners.covariance import measured_once

if TYPE_CHECKING:
    from peft import LoraConfig

    from pairtune.pair.base import Base

log = logging.getLogger("pairtune")
DAMPING, TOLERANCE = 0.01, 0.05


def decompose(weight: Tensor, moment: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """U, S, V̂ᵀ with W = U diag(S) V̂ᵀ, S falling, ordered by what the moment C says that inputs use.

        C' = C + δ mean(diag C) I;   U S Vᵀ = svd(W C');   V̂ᵀ = Vᵀ C'⁻¹

    δ begins at 0.01 and doubles until ‖C' C'⁻¹ − I‖ < 0.05 (Frobenius). With C' = I it is the plain singular value
    decomposition (PiSSA).

    Args:
        weight: [o, i]. moment: [i, i], symmetric, not zero.

    Returns: U [o, k], S [k], V̂ᵀ [k, i] with k = min(o, i), all float64, and δ.
    """
    weight, moment = weight.detach().double(), moment.double()
    eye, damping = torch.eye(len(moment), dtype=torch.float64, device=moment.device), DAMPING
    while True:
        damped = moment + damping * moment.diagonal().mean() * eye
        inverse = torch.linalg.inv(damped)
        if torch.linalg.matrix_norm(damped @ inverse - eye) < TOLERANCE:
            break
        damping *= 2
    u, s, v = torch.linalg.svd(weight @ damped, full_matrices=False)
    return u, s, v @ inverse, damping


def prepare(
    base: Base,
    call: nn.Module,
    config: LoraConfig,
    mode: str,
    batches: Sequence[dict[str, Any]],
    cache: Path | None,
) -> None:
    """Leave at every target what PEFT's initialiser reads (`eigens`), for `get_peft_model` to take.

    Args:
        config: with `init_lora_weights="corda"`; "all-linear" becomes the list of the linear layers in the blocks.
        mode: "ipm" takes the largest directions, "kpm" the smallest. batches: what the inputs are like.

    Raises `InputError` where a target is no plain linear layer of floating-point weights, or is smaller than the rank.
    """
    try:
        from peft.tuners.lora.corda import CordaEigens
    except ImportError as error:
        raise InputError(
            f"corda: PEFT's CorDA needs a package that it does not declare ({error}): pip install attrs"
        ) from None
    layers = _targets(base, config)
    found = measured_once(cache, base, call, layers, batches)
    r, widest = config.r, max(len(matrix) for matrix in found.matrices.values())
    if found.tokens < 2 * widest:
        log.warning(
            "corda: %d tokens of %d rows say little about inputs of up to %d numbers; give more rows",
            found.tokens,
            found.rows,
            widest,
        )
    grown = []
    for name, layer in layers.items():
        weight = _weight(layer)
        u, s, v, damping = decompose(weight, found.of(name))
        if damping > DAMPING:
            grown.append(f"{name} ({damping:g})")
        part = slice(0, r) if mode == "ipm" else slice(len(s) - r, None)
        kept = [one.to(layer.weight.device, torch.float32).contiguous() for one in (s[part], u[:, part], v[part].T)]
        layer.eigens = CordaEigens(S_WC=kept[0], U_WC=kept[1], V_WC=kept[2])  # type: ignore[call-arg,assignment]
    if grown:
        log.warning("corda: inputs so alike that damping had to grow in %s", ", ".join(grown))


def _targets(base: Base, config: LoraConfig) -> dict[str, Any]:
    """The layers that the adapter will be put on, by name."""
    from peft.tuners.lora.corda import target_modules
    from peft.tuners.lora.model import LoraModel
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers

    if config.target_modules == "all-linear":
        _maybe_include_all_linear_layers(config, base.model)
        # A pooler sees one vector a text, which is no sample of tokens.
        inside = tuple(f"{name}." for name, _ in base.blocks)
        config.target_modules = [name for name in sorted(config.target_modules or ()) if name.startswith(inside)]
    found: Any = target_modules(base.model, config)  # PEFT's annotation forgets the names
    plain: dict[str, Any] = dict(found)
    named: list[tuple[str, Any]] = [
        (n, m) for n, m in base.model.named_modules() if LoraModel._check_target_module_exists(config, n)
    ]
    for name, module in named:
        if name not in plain or not module.weight.is_floating_point():
            what = "is quantised" if name in plain or base.quantize else f"is {type(module).__name__}"
            raise InputError(f"corda: {name} {what}; it takes linear layers with floating-point weights")
        if config.r > min(module.weight.shape):
            raise InputError(
                f"corda: r = {config.r} is more than {name} of {tuple(module.weight.shape)} has directions"
            )
    if not plain:
        raise InputError(f"corda: {base.source} has no layer that the targets name")
    return plain


def _weight(layer: Any) -> Tensor:
    """[o, i], whichever way round the layer stores it."""
    return layer.weight if isinstance(layer, nn.Linear) else layer.weight.T
