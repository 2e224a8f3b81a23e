"""The same merges for tensors that are in memory already: for searches over merges, and as the check of the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pairtune.merging import Merge
from pairtune.merging.engine import compute
from pairtune.merging.engine.plan import Rule, plan
from pairtune.merging.inputs.sources import Source
from pairtune.merging.inputs.statistics import Statistics


def combine(
    models: Sequence[Mapping[str, Tensor]],
    method: Merge | Callable[[str], Rule],
    weights: Sequence[float] | None = None,
    base: Mapping[str, Tensor] | None = None,
    names: Sequence[str] | None = None,
    statistics: Sequence[Mapping[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """Merge state dicts: tensors by name in, tensors by name out, in the stored type of the base (or first model).

    The numbers are those of the engine, bit for bit.

    Args:
        method: one method for all tensors, or a function that gives the rule for a tensor by its name.
        weights: one a model, 1 each by default; with a function for the rules they are its own matter.
        base: the common ancestor; also a model of `models`, if it is to be one of those that are combined.
        names: the tensors to make; all by default.
        statistics: for a method that needs samples, what it collected of each model.

    Raises `DeltaMismatch` naming a tensor that does not fit or is not finite.
    """
    known = [Statistics(one) for one in statistics] if statistics is not None else [Statistics() for _ in models]
    sources = [
        Source(f"model {i + 1}", None, model, statistics=own)
        for i, (model, own) in enumerate(zip(models, known, strict=True))
    ]
    origin = None if base is None else Source("the base", None, base)
    given = tuple(weights) if weights is not None else (1.0,) * len(models)
    rule = (lambda name: Rule(method, given)) if isinstance(method, Merge) else method
    wanted = None if names is None else frozenset(names)
    with torch.inference_mode(False), torch.no_grad():
        steps = plan(sources, origin, rule)
        return {step.name: compute.whole(step) for step in steps if wanted is None or step.name in wanted}
