"""A merge as a file: base, models, weights, method; or one of mergekit's, told apart by its field `merge_method`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from pairtune import yaml12
from pairtune.errors import ConfigError, InputError
from pairtune.merging.config.layer_recipe import Entry, Method, merge_layers
from pairtune.merging.engine.layout import parse_size
from pairtune.merging.engine.run import Merged, merge
from pairtune.method import problems_of

_WHOLE = ("method", "to", "rank", "rows", "sparsify", "sparsify_by", "sign")


class Model(pydantic.BaseModel):
    """One model of a recipe. `data`: the task that it was tuned on, for methods that look at data."""

    model_config = pydantic.ConfigDict(extra="forbid")
    model: str
    weight: float | None = None
    data: str | None = None


class Recipe(pydantic.BaseModel):
    """Everything that a merge is made of. Flags have the same names and lie over the file."""

    model_config = pydantic.ConfigDict(extra="forbid")
    models: list[Model]
    out: str
    method: Method = Method(name="linear")
    layers: list[Entry] | None = None
    base: str | None = None
    to: Literal["merged", "delta", "peft"] = "merged"
    rank: int | None = None
    dtype: str | None = None
    max_shard_size: str | int = "5GB"
    allow_vocabulary_growth: bool = False
    check: bool = True
    rows: int | None = None
    sparsify: float | None = None
    sparsify_by: Literal["global", "layer"] | None = None
    sign: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Recipe:
        """Check a mapping; a method may be a name alone, a model a path alone. Raises `ConfigError` with all faults."""
        values = dict(values)
        if isinstance(values.get("method"), str):
            values["method"] = {"name": values["method"]}
        if isinstance(values.get("models"), list):
            values["models"] = [{"model": one} if isinstance(one, str) else one for one in values["models"]]
        try:
            found = cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise ConfigError(problems_of(error, model=cls), where=where) from None
        if not found.models:
            raise ConfigError(["models: expected at least one"], where=where)
        lacking = [one.model for one in found.models if one.weight is None]
        if 0 < len(lacking) < len(found.models):
            raise ConfigError([f"models: give every model a weight, or none ({lacking[0]} has none)"], where=where)
        if misplaced := found._misplaced():
            raise ConfigError([f"{name}: has no meaning for {why}" for name, why in misplaced], where=where)
        return found

    def _misplaced(self) -> list[tuple[str, str]]:
        """Fields that would decide nothing, and for what."""
        found = []
        if self.to != "merged" and "max_shard_size" in self.model_fields_set:
            found.append(("max_shard_size", f"{self.to}, which is one file"))
        if self.dtype is not None and self.to == "peft":
            found.append(("dtype", "peft, whose factors are float32"))
        if self.dtype is not None and (self.sign or self.sparsify is not None):
            found.append(("dtype", "a delta of signs or few entries, which keeps float32"))
        return found

    def run(self, threads: int | None = None) -> Merged:
        """Merge as the recipe says."""
        if self.layers is not None:
            return self._by_layer(threads)
        weights = [one.weight for one in self.models if one.weight is not None]
        return merge(
            [one.model for one in self.models],
            self.out,
            self.method.name,
            self.method.model_extra,
            weights=weights or None,
            base=self.base,
            to=self.to,
            rank=self.rank,
            dtype=self.dtype,
            max_shard_size=self.max_shard_size,
            allow_vocabulary_growth=self.allow_vocabulary_growth,
            check=self.check,
            threads=threads,
            data=[one.data for one in self.models if one.data is not None],
            rows=self.rows,
            sparsify=self.sparsify,
            sparsify_by=self.sparsify_by,
            sign=self.sign,
        )

    def _by_layer(self, threads: int | None) -> Merged:
        """What every layer is made of stands in the file; what would speak of all layers has no place beside it."""
        beside = [name for name in (*_WHOLE, "allow_vocabulary_growth") if name in self.model_fields_set]
        beside += [name for name in ("weight", "data") if any(getattr(one, name) is not None for one in self.models)]
        if beside:
            raise ConfigError([f"{name}: has no place in a recipe with layers" for name in beside], "the recipe")
        return merge_layers(
            [one.model for one in self.models],
            self.out,
            self.layers or [],
            base=self.base,
            dtype=self.dtype,
            max_shard_size=parse_size(self.max_shard_size),
            check=self.check,
            threads=threads,
        )


def run_file(path: Path, flags: Mapping[str, Any]) -> Merged:
    """Run a recipe, or a mergekit configuration, with flags over it.

    A recipe's paths are taken as the command line's: from the working directory. Raises `ConfigError` naming the field.
    """
    values = yaml12.load(path)
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: expected the fields of a recipe (models, method, ...), found {type(values).__name__}"
        )
    if "merge_method" in values:
        from pairtune.merging.config.mergekit import run_config

        return run_config(values, str(path), flags)
    return Recipe.of({**values, **flags}, str(path)).run()
