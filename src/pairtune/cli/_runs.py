"""A run as the command line says it: a run file or a recipe, flags laid over it, one checked configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.cli import dotted

if TYPE_CHECKING:
    from pairtune.training.config import RunConfig

DATA = ("kind", "text", "label", "labels", "splits", "separator", "name")  # what `Task.load` takes beside the source


def run_config(
    words: list[str],
    file: str | None,
    plain: Mapping[str, Any],
    *,
    tuner: str | None,
    objective: str | None,
    constraint: list[str] | None,
    under: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The run that flags and file describe.

    Args:
        words: the dotted flags (`ctx.args`). plain: other flags by the names in a run file, None where not given.
        under: what holds where neither file nor flags say anything.

    Raises `ConfigError` with every fault at once, `InputError` for a file that cannot be read.
    """
    flags = _flags(words, bool(file or under), tuner, objective, constraint)
    values = {**flags, **{key: value for key, value in plain.items() if value is not None}}
    if "data" in flags:  # --data.text and the like stand beside the source
        source = plain.get("data")
        values["data"] = {**({"source": source} if source is not None else {}), **flags["data"]}
    from pairtune.training.config import RunConfig, merged

    if file:
        return RunConfig.read(run_file(file), values)
    return RunConfig.of(merged(under or {}, values), "the command line")


def run_file(name: str) -> Path:
    """A file of that name, or the recipe."""
    if Path(name).exists() or name.endswith((".yaml", ".yml", ".json")):
        return Path(name)
    from pairtune import recipes

    return recipes.find(name).path


def _flags(
    words: list[str], chosen_elsewhere: bool, tuner: str | None, objective: str | None, constraint: list[str] | None
) -> dict[str, Any]:
    """The mapping that the dotted flags and the methods' names make; names are checked here, before anything loads."""
    # What a run file chooses is not known yet; its settings are checked when it has been read.
    defaults = {} if chosen_elsewhere else {"tuner": "lora", "objective": "auto"}
    chosen: dict[str, Any] = {
        "tuner": tuner or defaults.get("tuner"),
        "objective": objective,
        "constraint": constraint or [],
    }
    training = dotted.fields("pairtune.training.config", "Training")
    values: dict[str, Any] = dotted.read(words, chosen, {"training": training, "data": DATA})
    for section, name in (("tuner", tuner), ("objective", objective)):
        if name is not None or section in values:
            inner = values.get(section, {})
            name = name or defaults.get(section)
            values[section] = {**({"name": name} if name else {}), **inner}
    if constraint:
        values["constraint"] = {**{name: {} for name in constraint}, **values.get("constraint", {})}
    return values
