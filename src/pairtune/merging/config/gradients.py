"""A parameter that differs from tensor to tensor, as mergekit's files write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pairtune.errors import InputError


def value_for(setting: Any, tensor: str, t: float, where: str) -> Any:
    """The value for one tensor; None where no filter of a list takes it.

    Args:
        setting: a scalar; a list of numbers, interpolated at `t`; or a list of {value, filter}, of which the first
            counts whose filter is in the tensor's name, `*` or left out.
        tensor: the tensor's name in the model.
        t: how far through the slice's layers it lies, from 0 to 1.

    Raises `InputError`, beginning with `where`, for anything else.
    """
    if isinstance(setting, bool | int | float | str) or setting is None:
        return setting
    if isinstance(setting, Mapping):
        setting = [setting]
    if isinstance(setting, list) and setting:
        if all(isinstance(one, int | float) and not isinstance(one, bool) for one in setting):
            return _between(setting, t)
        if all(isinstance(one, Mapping) and "value" in one and one.keys() <= {"value", "filter"} for one in setting):
            for one in setting:
                if one.get("filter") in (None, "*") or str(one["filter"]) in tensor:
                    return value_for(one["value"], tensor, t, where)
            return None
    raise InputError(f"{where}: expected a number, a list of numbers, or a list of value and filter; found {setting!r}")


def _between(values: list[float], t: float) -> float:
    place = t * (len(values) - 1)
    low = min(int(place), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])
