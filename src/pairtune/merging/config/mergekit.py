"""A mergekit configuration, run as it is: the fields that follow, everything else is an error that names the field.

    merge_method, base_model, models or slices (sources, layer_range), parameters, dtype, tokenizer_source: base

A parameter is a number, a gradient (a list of numbers, interpolated over the layers of a slice), or a list of values
with filters on the tensors' names. Parameters of a source lie over those of its slice, those over the file's.
https://github.com/arcee-ai/mergekit (read at version 0.1.5)

What differs from mergekit: the arithmetic is float32 whatever `dtype` says, which is the type that is stored; DARE and
DELLA rescale by the chance to be kept, as their papers do, and draw other random masks; `int8_mask` saves memory there
and means nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pairtune import registry
from pairtune.errors import ConfigError, InputError
from pairtune.merging import Merge
from pairtune.merging.config.gradients import value_for
from pairtune.merging.config.layers import layer_count
from pairtune.merging.config.mergekit_file import Part, Slice, check, check_layers, outputs, slices, sources
from pairtune.merging.engine.layout import parse_size
from pairtune.merging.engine.plan import Place, Rule, Step, check_method, make_step
from pairtune.merging.engine.run import Job, Merged, parse_dtype, write
from pairtune.merging.inputs.compare import check_same_family, config_of, vocabulary_owner
from pairtune.merging.inputs.opening import open_sources
from pairtune.merging.inputs.sources import Source
from pairtune.merging.inputs.tied import resolve
from pairtune.merging.outputs import beside

_FLAGS = {"out", "max_shard_size", "check", "dtype"}
# Their name for a setting → ours, where they differ; and what may only have one value.
_RENAMED = {"lambda": "scale"}
_FIXED = {"rescale": {"ties": False, "breadcrumbs": False, "task_arithmetic": False}, "filter_wise": {}}
_NOTHING = "int8_mask"


def run_config(values: Mapping[str, Any], where: str, flags: Mapping[str, Any]) -> Merged:
    """Run a configuration. Raises `ConfigError` naming the fields that are unknown, missing or not supported."""
    if strange := sorted(set(flags) - _FLAGS):
        raise InputError(f"--{strange[0].replace('_', '-')}: {where} is a mergekit configuration and says that itself")
    if "out" not in flags:
        raise InputError("name the folder to write: --out FOLDER")
    check(values, where)
    names = list(dict.fromkeys(one["model"] for one in sources(values)))
    base_name = values.get("base_model")
    opened, base = open_sources([name for name in names if name != base_name], base_name)
    opened, base, untied = resolve(opened, base)
    known = {source.label: source for source in [*opened, *([base] if base is not None else [])]}
    runs = list(slices(values, known))
    check_layers(runs, known, where)
    home = base or known[runs[0].parts[0].model]
    check_same_family([source for source in known.values() if source is not home], home, but="num_hidden_layers")
    planner = _Planner(values, where, known, base)
    dtype = parse_dtype(flags.get("dtype", values.get("dtype")))
    steps = [planner.step(*one, dtype) for one in outputs(runs, known, home)]
    owner = vocabulary_owner(list(known.values()), home, may_grow=False)
    changes = _layers_changed(runs, home, known) | ({"tie_word_embeddings": False} if untied else {})
    models = [source for name, source in known.items() if name != base_name or "base" not in planner.cls.needs]
    job = Job(steps, models, base, owner, changes, dtype)
    shown = {name: values[name] for name in ("parameters", "models", "slices") if name in values}

    def record(figures: dict[str, Any]) -> dict[str, Any]:
        return beside.card(str(values["merge_method"]).replace("_", "-"), shown, models, None, base, figures)

    out, most = Path(flags["out"]), parse_size(flags.get("max_shard_size", "5GB"))
    return Merged(out, write(job, out, most, None, flags.get("check", True), record))


class _Planner:
    """Makes the step of one tensor: which models take part, and what the parameters are for it."""

    def __init__(self, values: Mapping[str, Any], where: str, sources: Mapping[str, Source], base: Source | None):
        self.values, self.where, self.sources, self.base = values, where, sources, base
        self.name = str(values["merge_method"])
        self.cls = registry.load("merging", self.name.replace("_", "-"))
        self._made: dict[str, Merge] = {}

    def step(self, name: str, at: Slice, names: Sequence[str], t: float, dtype: Any) -> Step:
        """The tensor `name` of the result, from the tensors `names` of the slice's models; `t`: how far through it."""
        base = self.values.get("base_model")
        needs_base = "base" in self.cls.needs
        used = [
            (part, own)
            for part, own in zip(at.parts, names, strict=True)
            if own in self.sources[part.model].names and not (needs_base and part.model == base)
        ]
        if self.name == "slerp":
            used.sort(key=lambda item: item[0].model != base)
        if self.name == "slerp" and self.base is not None and all(part.model != base for part, _ in used):
            used.insert(0, (Part(self.base.label, 0, 0, {}), name))
        if not used:
            raise InputError(f"{self.where}: none of its models has the tensor {name}")
        places = [Place(self.sources[part.model], own) for part, own in used]
        origin = None
        if needs_base and self.base is not None:
            own = next((own for part, own in zip(at.parts, names, strict=True) if part.model == base), name)
            origin = Place(self.base, own)
        method = self._method(at, used, t)
        weights = tuple(float(self._value("weight", part, at, own, t)) for part, own in used) if method.weighted else ()
        check_method(method, self.name, len(used), self.base if needs_base else None, None)
        return make_step(name, places, origin, Rule(method, weights or (1.0,) * len(used)), dtype=dtype)

    def _method(self, at: Slice, used: Sequence[tuple[Part, str]], t: float) -> Merge:
        settings: dict[str, Any] = {}
        for name in self._named(at):
            ours = _RENAMED.get(name, name)
            found = [self._value(name, part, at, own, t) for part, own in used]
            if name == "density":
                settings[ours] = [1.0 if value is None else float(value) for value in found]
            elif any(value != found[0] for value in found):
                raise ConfigError([f"parameters.{name}: differs between models, which is not supported"], self.where)
            elif found[0] is not None:
                settings[ours] = found[0]
        if "density" in self.cls.Settings.model_fields:
            settings.setdefault("density", 1.0)  # mergekit's default
        key = repr(sorted(settings.items()))
        if key not in self._made:
            self._made[key] = registry.build("merging", self.name.replace("_", "-"), settings, self.where)
        return self._made[key]

    def _named(self, at: Slice) -> list[str]:
        scopes = [self.values.get("parameters") or {}, at.parameters, *(part.parameters for part in at.parts)]
        found = dict.fromkeys(name for scope in scopes for name in scope)
        known = {"weight", _NOTHING, *_RENAMED, *self.cls.Settings.model_fields, *_FIXED}
        if strange := [name for name in found if name not in known]:
            problems = [f"parameters.{name}: {self.name} has no such parameter here" for name in strange]
            raise ConfigError(problems, self.where)
        for name, allowed in _FIXED.items():
            for scope in scopes:
                if name in scope and scope[name] is not allowed.get(self.name, name == "rescale"):
                    raise ConfigError([f"parameters.{name}: {scope[name]!r} is not supported"], self.where)
        return [name for name in found if name not in {"weight", _NOTHING, *_FIXED}]

    def _value(self, name: str, part: Part, at: Slice, tensor: str, t: float) -> Any:
        for scope in (part.parameters, at.parameters, self.values.get("parameters") or {}):
            if name in scope:
                found = value_for(scope[name], tensor, t, f"{self.where}: parameters.{name}")
                if found is not None:
                    return found
        if name == "weight":
            raise ConfigError([f"parameters.weight: there is none for {part.model} and {tensor}"], self.where)
        return None


def _layers_changed(runs: Sequence[Slice], home: Source, known: Mapping[str, Source]) -> dict[str, Any]:
    """The entries of the configuration that follow the number of layers."""
    firsts = [one.parts[0] for one in runs]
    order = [(part.model, i) for part in firsts for i in range(part.first, part.last)]
    config = config_of(home)
    if not config or [i for _, i in order] == list(range(layer_count(home))):
        return {}
    found: dict[str, Any] = {}
    for name in ("num_hidden_layers", "n_layer", "num_layers"):
        if name in config:
            found[name] = len(order)
    if isinstance(config.get("layer_types"), list):
        found["layer_types"] = [config_of(known[model])["layer_types"][i] for model, i in order]
    return found
