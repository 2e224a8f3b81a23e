"""Adam without bias correction, as BERT's first fine-tuning code had it: for comparison only.

    m ← b1·m + (1 − b1)·g      v ← b2·v + (1 − b2)·g²      w ← w − lr·(m / (√v + eps) + decay·w)

AdamW divides m and v by 1 − b1^t and 1 − b2^t first. Its step t is the one above when the step is taken with

    lr·c, eps / √(1 − b2^t) and decay / c,      c = (1 − b1^t) / √(1 − b2^t)

in place of lr, eps and decay. So the settings are exchanged around every step, whoever owns the optimizer.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def uncorrected_adam() -> Iterator[None]:
    """While inside, every `torch.optim.AdamW` steps without bias correction; schedules work as ever."""
    from torch.optim import AdamW
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    kept: dict[int, list[dict[str, float]]] = {}

    def before(optimizer: Any, *_: Any) -> None:
        if not isinstance(optimizer, AdamW):
            return
        groups = optimizer.param_groups
        kept[id(optimizer)] = [{name: group[name] for name in ("lr", "eps", "weight_decay")} for group in groups]
        for group in groups:
            first, second = group["betas"]
            step = 1 + int(optimizer.state.get(group["params"][0], {}).get("step", 0))
            root = math.sqrt(1 - second**step)
            factor = (1 - first**step) / root
            group.update(lr=group["lr"] * factor, eps=group["eps"] / root, weight_decay=group["weight_decay"] / factor)

    def after(optimizer: Any, *_: Any) -> None:
        for group, settings in zip(optimizer.param_groups, kept.pop(id(optimizer), []), strict=False):
            group.update(settings)

    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
