"""A merge that does another thing in every layer as the field `layers` of a recipe; searches write it.

    base: zoo:tiny-lm
    models: [zoo:tiny-lm, desk, shop]
    out: merged
    layers:
    - layers: [model.layers.0, model.layers.1]
      method: {name: ties, density: 0.07, scale: 1.2}
      models: [desk, shop]
    - layers: [model.layers.2, model.layers.3, rest]
      method: linear
      weights: [0.6, 0.2, 0.5]

Every layer of the models stands in one entry; `rest` is what lies in no layer (embeddings, the last norm, the head).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic

from pairtune import registry
from pairtune.errors import ConfigError
from pairtune.merging.engine.by_layer import Choice, layer_of, steps
from pairtune.merging.engine.plan import Rule, check_method
from pairtune.merging.engine.run import Job, Merged, parse_dtype, prepare, write
from pairtune.merging.inputs.opening import open_sources
from pairtune.merging.outputs import beside
from pairtune.registry import suggest

KEEP = "passthrough"


class Method(pydantic.BaseModel):
    """A method by its name; the other entries are its settings, which it checks itself."""

    model_config = pydantic.ConfigDict(extra="allow")
    name: str


class Entry(pydantic.BaseModel):
    """What some layers are made of. `models`: of the recipe's models, all by default; `weights`: one for each."""

    model_config = pydantic.ConfigDict(extra="forbid")
    layers: list[str]
    method: Method
    models: list[str] | None = None
    weights: list[float] | None = None

    @pydantic.field_validator("method", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def choice(self, pool: Sequence[str], where: str) -> Choice:
        """As the merge takes it. Raises `ConfigError` for models that the recipe does not list, or too few weights."""
        used = pool if self.models is None else self.models
        unknown = [name for name in used if name not in pool]
        if unknown:
            raise ConfigError([f"models: {unknown[0]} is not one of the recipe's{suggest(unknown[0], pool)}"], where)
        weights = [1.0] * len(used) if self.weights is None else self.weights
        if len(weights) != len(used):
            raise ConfigError([f"weights: {len(weights)} for {len(used)} models"], where)
        given = (self.method.model_extra or {}).items()
        settings = tuple(sorted((name, tuple(one) if isinstance(one, list) else one) for name, one in given))
        return Choice(self.method.name, tuple(pool.index(name) for name in used), tuple(weights), settings)


def entries(pool: Sequence[str], layers: Mapping[str, Choice]) -> list[dict[str, Any]]:
    """The field `layers` of a recipe, from the choice of every layer; layers with one choice share an entry."""
    names: dict[Choice, list[str]] = {}
    for layer, choice in layers.items():
        names.setdefault(choice, []).append(layer)
    found = []
    for choice, shared in names.items():
        settings = dict(choice.settings)
        name, weights = choice.operator, list(choice.weights)
        if name == "keep":
            name, weights = KEEP, []
        elif len(set(weights)) == 1 and weights[0] == 1:
            weights = []
        entry: dict[str, Any] = {"layers": shared, "method": {"name": name, **settings} if settings else name}
        if choice.models != tuple(range(len(pool))):
            entry["models"] = [pool[i] for i in choice.models]
        found.append(entry | ({"weights": weights} if weights else {}))
    return found


def merge_layers(
    models: Sequence[str],
    out: str | Path,
    layers: Sequence[Entry],
    *,
    base: str | None = None,
    dtype: str | None = None,
    max_shard_size: int = 5 * 10**9,
    check: bool = True,
    threads: int | None = None,
) -> Merged:
    """Merge as the entries say, by the streaming engine; otherwise as `run.merge`.

    Raises `ConfigError` for layers that the models do not have, that stand in two entries or in none.
    """
    sources, origin = open_sources(models, base)
    job = prepare(sources, origin, lambda _: Rule(registry.build("merging", "linear"), (1.0,) * len(models)))
    made = _by_name(layers, models, (step.name for step in job.steps))
    for entry in layers:
        name, method = entry.method.name, made[entry.layers[0]].rule.method
        if "samples" in method.needs:
            raise ConfigError([f"{name} looks at data, and is for a merge of all layers alike"], "layers")
        check_method(method, name, len(entry.models or models), job.base, entry.weights)
    job = _with(job, made, dtype)
    shown = [entry.model_dump(mode="json", exclude_none=True) for entry in layers]

    def record(figures: dict[str, Any]) -> dict[str, Any]:
        return beside.card("by layer", {}, job.models, None, job.base, {"by_layer": shown, **figures})

    return Merged(Path(out), write(job, Path(out), max_shard_size, threads, check, record))


def _with(job: Job, made: Mapping[str, Choice], dtype: str | None) -> Job:
    kind = parse_dtype(dtype)
    found = steps(job.models, job.base, lambda name: made[layer_of(name).name], kind)
    return replace(job, steps=found, dtype=kind)


def _by_name(layers: Sequence[Entry], models: Sequence[str], tensors: Iterable[str]) -> dict[str, Choice]:
    """Layer → choice, once every layer of the models is in exactly one entry."""
    there = list(dict.fromkeys(layer_of(name).name for name in tensors))
    made: dict[str, Choice] = {}
    for i, entry in enumerate(layers):
        where = f"layers, entry {i + 1}"
        for layer in entry.layers:
            if layer not in there:
                raise ConfigError([f"the models have no layer {layer}{suggest(layer, there)}"], where)
            if layer in made:
                raise ConfigError([f"{layer} stands in an entry before"], where)
            made[layer] = entry.choice(list(models), where)
        if not entry.layers:
            raise ConfigError(["names no layer"], where)
    missing = [layer for layer in there if layer not in made]
    if missing:
        raise ConfigError([f"{missing[0]} is in no entry ({len(missing)} such layers)"], "layers")
    return made
