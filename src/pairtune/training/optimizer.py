"""AdamW over the delta's parameters, in groups by decay and by learning-rate factors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pairtune.constraints import Constraint
    from pairtune.pair.pair import Pair


def make_optimizer(
    pair: Pair, constraints: Iterable[Constraint], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), betas 0.9 and 0.999, eps 1e-8.

    Biases, norms and other vectors do not decay, nor does what the delta exempts. Factors of the tuner and of several
    constraints multiply. A group remembers the names of its parameters under "names", which the checkpoint stores.
    """
    scales = dict(pair.top.installed.lr_scales)
    for constraint in constraints:
        for group in constraint.parameter_groups(pair) or []:
            for name in group["names"]:
                scales[name] = scales.get(name, 1.0) * group["lr_scale"]
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in pair.trainable():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim >= 2 and name not in pair.top.installed.no_decay
        key = (scales.get(name, 1.0), weight_decay if decays else 0.0)
        group = groups.setdefault(key, {"params": [], "names": [], "lr": lr * key[0], "weight_decay": key[1]})
        group["params"].append(parameter)
        group["names"].append(name)
    return torch.optim.AdamW(list(groups.values()), lr=lr, fused=_can_fuse(pair))


def _can_fuse(pair: Pair) -> bool:
    trained = [p for _, p in pair.trainable() if p.requires_grad]
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trained)
