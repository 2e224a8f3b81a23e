"""After tuning: the delta is real, and the base is untouched."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pairtune.errors import NonFiniteError, PairtuneError
from pairtune.pair.pair import evaluating

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair


def digest(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each tensor's bytes, to compare with later without a copy."""
    found = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found[name] = hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
    return found


def prove_delta(pair: Pair, before: Mapping[str, str], batch: dict[str, Any]) -> None:
    """Raise unless tuning has changed a parameter of the top delta, and with it an output.

    Args:
        before: `digest` of the delta's state before the first step.
        batch: on which the outputs with and without the delta are compared.
    """
    now = pair.top.installed.state()
    broken = [name for name, tensor in now.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise NonFiniteError(f"after tuning, {broken[0]} holds NaN or infinite values ({len(broken)} such tensors)")
    if digest(now) == dict(before):
        raise PairtuneError(f"tuning changed nothing: all {len(now)} tensors of the delta are as before the first step")
    prove_effect(pair, batch)


@torch.no_grad()
def prove_effect(pair: Pair, batch: dict[str, Any]) -> None:
    """Raise unless the outputs of a batch with and without the top delta differ."""
    batch = {k: v.to(pair.base.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    with evaluating(pair.model):
        variant = pair.forward(batch).logits
    with pair.reference(), evaluating(pair.model):
        reference = pair.forward(batch).logits
    if variant is None or reference is None or variant.shape != reference.shape:
        return  # a head of the delta's own: there is no such output without it
    if torch.equal(variant, reference):
        raise PairtuneError("the delta has no effect: outputs with and without it are equal, bit for bit")
