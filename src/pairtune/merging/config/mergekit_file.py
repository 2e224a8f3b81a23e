"""What stands in a mergekit configuration: checked field by field, and taken apart into slices of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pairtune import registry
from pairtune.errors import ConfigError
from pairtune.merging.config.layers import layer_count, place_of
from pairtune.merging.inputs.sources import Source
from pairtune.pair.tensor_names import natural

_TOP = {"merge_method", "base_model", "models", "slices", "parameters", "dtype", "tokenizer_source"}
_SLICE = {"sources", "parameters", "base_model"}
_SOURCE = {"model", "layer_range", "parameters"}
_METHODS = "linear slerp task_arithmetic ties dare_linear dare_ties della breadcrumbs model_stock passthrough".split()


class Part(NamedTuple):
    """Layers [first, last) of one model, with the parameters that are its own."""

    model: str
    first: int
    last: int
    parameters: Mapping[str, Any]


class Slice(NamedTuple):
    """What a run of the result's layers is made from."""

    parts: list[Part]
    parameters: Mapping[str, Any]


def check(values: Mapping[str, Any], where: str) -> None:
    """Raise `ConfigError` naming every field that is unknown, wrong or not supported."""
    problems = [f"{name}: is not supported" for name in values if name not in _TOP]
    if values.get("tokenizer_source") not in (None, "base"):
        problems.append(f"tokenizer_source: only base is supported, found {values['tokenizer_source']!r}")
    if problem := _method_problem(values["merge_method"]):
        problems.append(f"merge_method: {problem}")
    if ("models" in values) == ("slices" in values):
        problems.append("models, slices: expected one of the two")
    for path, entry, known in _entries(values):
        if not isinstance(entry, Mapping):
            problems.append(f"{path}: expected fields, found {entry!r}")
            continue
        problems += [f"{path}.{name}: is not supported" for name in entry if name not in known]
        if "model" in known and not isinstance(entry.get("model"), str):
            problems.append(f"{path}.model: expected a name")
        elif not _is_range(entry.get("layer_range")):
            problems.append(f"{path}.layer_range: expected [FIRST, LAST], found {entry['layer_range']!r}")
        elif "+" in str(entry.get("model", "")):
            problems.append(
                f"{path}.model: BASE+ADAPTER is not supported; name the adapter, and the base in base_model"
            )
    if problems:
        raise ConfigError(problems, where)


def _method_problem(name: Any) -> str | None:
    if name in _METHODS:
        return None
    ours = str(name).replace("_", "-")
    if ours in registry.methods("merging") and "samples" in (registry.find("merging", ours).needs or ()):
        return f"{name!r} looks at data, which such a file cannot name; run it with --method {ours} and --data"
    return f"{name!r} is not supported; there are {', '.join(_METHODS)}"


def _is_range(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 2 and all(type(one) is int for one in value))


def _entries(values: Mapping[str, Any]) -> Iterator[tuple[str, Any, set[str]]]:
    """Every nested entry, with its path and the fields that it may have."""
    for i, entry in enumerate(values.get("models") or []):
        yield f"models[{i}]", entry, {"model", "parameters"}
    for i, entry in enumerate(values.get("slices") or []):
        yield f"slices[{i}]", entry, _SLICE
        for j, source in enumerate(entry.get("sources") or [] if isinstance(entry, Mapping) else []):
            yield f"slices[{i}].sources[{j}]", source, _SOURCE


def sources(values: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every entry that names a model."""
    yield from values.get("models") or []
    for entry in values.get("slices") or []:
        yield from entry["sources"]


def slices(values: Mapping[str, Any], sources: Mapping[str, Source]) -> Iterator[Slice]:
    """The slices; models without any are one slice of all layers."""
    if "models" in values:
        parts = [
            Part(one["model"], 0, layer_count(sources[one["model"]]), one.get("parameters") or {})
            for one in values["models"]
        ]
        yield Slice(parts, {})
    for entry in values.get("slices") or []:
        parts = []
        for one in entry["sources"]:
            first, last = one.get("layer_range") or (0, layer_count(sources[one["model"]]))
            parts.append(Part(one["model"], first, last, one.get("parameters") or {}))
        yield Slice(parts, entry.get("parameters") or {})


def check_layers(slices: Sequence[Slice], sources: Mapping[str, Source], where: str) -> None:
    """Raise `ConfigError` for layers that a model does not have, and for sources of different lengths."""
    for i, one in enumerate(slices):
        for part in one.parts:
            there = layer_count(sources[part.model])
            if not 0 <= part.first <= part.last <= there:
                raise ConfigError(
                    [f"slices[{i}]: layers [{part.first}, {part.last}) of {part.model}, which has {there}"], where
                )
        if len({part.last - part.first for part in one.parts}) > 1:
            raise ConfigError([f"slices[{i}]: its sources have different numbers of layers"], where)


def outputs(
    slices: Sequence[Slice], sources: Mapping[str, Source], home: Source
) -> Iterator[tuple[str, Slice, list[str], float]]:
    """Every tensor of the result: its name, the slice that it is made by, its names in that slice's models, and t.

    What is no layer's is made by the first slice where it is an embedding, by the last elsewhere.
    """
    names = sorted(home.names, key=natural)
    outside = [name for name in names if place_of(name) is None]
    for name in outside:
        at = slices[0] if "embed" in name or "wte" in name or "wpe" in name else slices[-1]
        yield name, at, [name] * len(at.parts), 0.0
    layer = 0
    for at in slices:
        count = at.parts[0].last - at.parts[0].first
        for i in range(count):
            # The tensors of a layer are those of the first model's: what it is made of may differ from layer to layer.
            first = at.parts[0]
            own = sorted(sources[first.model].names, key=natural)
            for name in own:
                place = place_of(name)
                if place is not None and place.layer == first.first + i:
                    t = i / (count - 1) if count > 1 else 1.0
                    yield place.at(layer), at, [place.at(part.first + i) for part in at.parts], t
            layer += 1
