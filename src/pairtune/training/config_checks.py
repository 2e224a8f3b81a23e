"""What is wrong with a configuration: names of methods, from their files, and settings, by the methods' own tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic

from pairtune import registry
from pairtune.errors import ConfigError, InputError
from pairtune.method import problems_of

ROOMS = {"tuner": "tuners", "objective": "objectives", "constraint": "constraints"}


def by_name(value: Any) -> Any:
    """`l2sp` or `[l2sp, kl]` → names with no settings; a mapping's empty values → no settings."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        return {name: {} for name in value}
    return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, Mapping) else value


def method_problems(values: Mapping[str, Any], where: str = "") -> list[str]:
    """What is wrong with the names and settings of the chosen methods."""
    chosen: list[tuple[str, str, str, Mapping[str, Any]]] = []
    for section in ("tuner", "objective"):
        value = values.get(section)
        value = {"name": value} if isinstance(value, str) else value
        if isinstance(value, Mapping) and isinstance(value.get("name"), str) and value["name"] != "auto":
            settings = {k: v for k, v in value.items() if k != "name"}
            chosen.append((ROOMS[section], value["name"], f"{where}{section}", settings))
    constraints = by_name(values.get("constraint"))
    for name, settings in constraints.items() if isinstance(constraints, Mapping) else ():
        if isinstance(settings, Mapping):
            chosen.append(("constraints", str(name), f"{where}constraint.{name}", settings))
    problems = []
    for room, name, place, settings in chosen:
        try:
            registry.build(room, name, settings)
        except ConfigError as error:
            problems += [f"{place}.{problem}" for problem in error.problems]
        except InputError as error:
            problems.append(f"{place}: {error}")
    return problems


def training_problems(
    table: type[pydantic.BaseModel], values: Mapping[str, Any], stage: Mapping[str, Any], where: str
) -> list[str]:
    """What is wrong with a stage's training settings, themselves and laid over the run's."""
    run, own = values.get("training") or {}, stage.get("training") or {}
    if not isinstance(own, Mapping) or not isinstance(run, Mapping):
        return []  # already reported
    try:
        table(**{**{k: v for k, v in run.items() if k in table.model_fields}, **own})
    except pydantic.ValidationError as error:
        return problems_of(error, where, model=table)
    return []
