"""The models' weights, and settings that may differ from model to model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pairtune.errors import InputError


def normalized(weights: Sequence[float]) -> tuple[float, ...]:
    """The weights divided by their sum. Raises `InputError` where that is 0."""
    total = math.fsum(weights)
    if total == 0:
        raise InputError("the weights sum to 0, so that they cannot be normalised; set normalize: false")
    return tuple(weight / total for weight in weights)


def shares(value: float | list[float]) -> float | list[float]:
    """A validator for settings: one share above 0 and at most 1, or a list of them."""
    for one in value if isinstance(value, list) else [value]:
        if not 0 < one <= 1:
            raise ValueError(f"a share is above 0 and at most 1, not {one:g}")
    return value


def each(value: float | Sequence[float], count: int, name: str) -> tuple[float, ...]:
    """A setting for each of `count` models: one number for all of them, or a list with one each.

    Raises `InputError` for a list of another length.
    """
    if isinstance(value, int | float):
        return (float(value),) * count
    if len(value) != count:
        raise InputError(f"{name}: expected one number, or one for each of the {count} models; found {len(value)}")
    return tuple(value)
