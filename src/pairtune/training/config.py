"""What a run is: base, data, tuner, objective, constraints, training settings, stages.

The same nested mapping comes from a YAML file, from dotted flags and from Python. It is validated here, all faults in
one message, with nothing heavier than pydantic; the chosen methods' own settings are checked by the methods' tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import Field

from pairtune import yaml12
from pairtune.errors import ConfigError, InputError
from pairtune.method import Settings, problems_of
from pairtune.training.config_checks import ROOMS, by_name, method_problems, training_problems


class Training(Settings):
    """How the optimisation runs. One optimizer step sees `batch_size` × `accumulation` rows, over all processes."""

    epochs: float = Field(3.0, gt=0, description="passes over the training split")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps; overrides epochs")
    lr: float | None = Field(None, gt=0, description="peak learning rate; by default the tuner's own")
    batch_size: int = Field(8, ge=1, description="rows that go through the model at once")
    accumulation: int = Field(1, ge=1, description="batches whose gradients are added up before a step")
    max_length: int | None = Field(None, ge=1, description="longest input in tokens; by default the base's limit")
    packing: bool = Field(False, description="put several short texts into one row of a causal language model")
    augment: list[Literal["flip", "crop", "masks"]] = Field(
        [], description="changes of training images (flip, crop) or sound (masks), other ones in every pass"
    )
    warmup: float = Field(0.06, ge=0, lt=1, description="share of the steps in which the learning rate rises from 0")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="learning rate after the warmup")
    optimizer: Literal["adamw"] = Field("adamw", description="the optimizer")
    weight_decay: float = Field(0.0, ge=0, description="decay per unit of learning rate; not on biases and norms")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients longer than this are shortened to it; 0: never")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="type of the computation; auto takes bf16 on an accelerator that has it"
    )
    eval_every: int | None = Field(None, ge=1, description="steps between validations; by default once an epoch")
    patience: int | None = Field(None, ge=1, description="stop after this many validations without a better one")
    metric: str = Field("auto", description="what decides which checkpoint is best, on validation: loss, accuracy, ...")
    save_every: int | None = Field(None, ge=1, description="steps between checkpoints; by default at validations")
    keep: int = Field(2, ge=1, description="newest checkpoints that are kept, beside the best one")
    log_every: int = Field(10, ge=1, description="steps between lines of the log")
    cache_gb: float = Field(
        4.0, ge=0, description="disk for activations of a frozen base, kept from epoch to epoch; 0: computed anew"
    )
    trackers: list[str] = Field([], description="experiment trackers by transformers' names, e.g. tensorboard")
    push_to_hub: str | None = Field(None, description="hub repository to push the finished pair to")

    @pydantic.field_validator("augment", mode="before")
    @classmethod
    def _with_commas(cls, value: Any) -> Any:
        return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


class Choice(pydantic.BaseModel):
    """A method by name, with its settings beside the name."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    name: str

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def settings(self) -> dict[str, Any]:
        """The method's own settings."""
        return dict(self.__pydantic_extra__ or {})


class Stage(Settings):
    """One stage of a recipe; what it does not say is taken from the run. `training` is merged setting by setting."""

    name: str | None = Field(None, description="what the log calls this stage")
    tuner: Choice | None = Field(None, description="where this stage's delta lives")
    objective: Choice | None = Field(None, description="what pulls it")
    constraint: dict[str, dict[str, Any]] | None = Field(None, description="what holds it back, by name")
    rewind: bool = Field(
        False, description="take the delta of the stage before off again; the tuner learns from it where to tune"
    )
    training: dict[str, Any] = Field({}, description="training settings that differ from the run's")

    @pydantic.field_validator("constraint", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return by_name(value)


class RunConfig(Settings):
    """One run, whole. `RunConfig.of(mapping)` or `RunConfig.read(path)` give every fault at once as a `ConfigError`."""

    base: str = Field(description="hub id, local folder or zoo:<name>")
    data: str | dict[str, Any] = Field(
        description="a task: folder, file, hub id, or a mapping with `source` and columns"
    )
    tuner: Choice = Field(Choice(name="lora"), description="where the delta lives")
    objective: Choice = Field(Choice(name="auto"), description="what pulls it; auto: by the task's kind")
    constraint: dict[str, dict[str, Any]] = Field({}, description="what holds it back: settings by name")
    training: Training = Field(Training.model_validate({}), description="how the optimisation runs")
    stages: list[Stage] = Field([], description="a recipe: stages one after another, each on what the last one left")
    start: str | None = Field(
        None,
        description="a pair to begin at: its delta is the first value of the new one; it names base and tuner, too",
    )
    seed: int = Field(0, ge=0, description="seed of initial values, data order and dropout")
    out: str | None = Field(None, description="folder for the finished pair; its checkpoints go to <out>.run")
    revision: str | None = Field(None, description="revision of a base from the hub")
    quantize: Literal["4bit"] | None = Field(None, description="load the base's linear layers in four bits")
    dtype: str | None = Field(None, description="type of the base's weights; by default float32 where it fits")
    device: str | None = Field(None, description="cpu, cuda, cuda:1, ...; by default the accelerator if there is one")

    @pydantic.field_validator("constraint", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return by_name(value)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _as_the_start_says(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("start"), str):
            return values
        from pairtune.training.start import defaults

        given = defaults(values["start"])
        return {**(given if "base" not in values else {"tuner": given["tuner"]}), **values}

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str = "the configuration") -> RunConfig:
        """From a nested mapping. Raises one `ConfigError` with every fault: names, types, ranges, methods' settings."""
        config, problems = None, []
        try:
            config = cls.model_validate(dict(values))
        except pydantic.ValidationError as error:
            problems += problems_of(error, model=cls)
        problems += method_problems(values)
        for i, stage in enumerate(values.get("stages") or []):
            if isinstance(stage, Mapping):
                problems += method_problems(stage, f"stages.{i}.")
                problems += training_problems(Training, values, stage, f"stages.{i}.training")
        if problems or config is None:
            raise ConfigError(list(dict.fromkeys(problems)), where)
        return config

    @classmethod
    def read(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
        """From a YAML (or JSON) file, with a nested mapping laid over it."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
        values = yaml12.loads(text, str(path))
        if not isinstance(values, dict):
            raise InputError(f"{path}: expected a mapping with base, data, tuner, ..., found {type(values).__name__}")
        return cls.of(merged(values, overrides or {}), str(path))

    def to_json(self) -> str:
        """The run as JSON; `RunConfig.of(json.loads(...))` gives it back."""
        return json.dumps(self.model_dump(mode="json"), indent=2)

    def steps(self) -> list[RunConfig]:
        """The run's stages, each as a run of one stage; a run without stages is its own only one."""
        if not self.stages:
            return [self]
        return [
            self.model_copy(
                update={
                    "stages": [],
                    "tuner": stage.tuner or self.tuner,
                    "objective": stage.objective or self.objective,
                    "constraint": self.constraint if stage.constraint is None else stage.constraint,
                    "training": Training(**{**self.training.model_dump(), **stage.training}),
                }
            )
            for stage in self.stages
        ]


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested mappings, the second laid over the first. Another method's name drops the settings of the first's."""
    result = dict(under)
    for key, value in over.items():
        old = result.get(key)
        if key in ROOMS and isinstance(old, str):
            old = by_name(old) if key == "constraint" else {"name": old}
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            same = key == "constraint" or value.get("name", old.get("name")) == old.get("name")
            value = merged(old, value) if same else dict(value)
        result[key] = value
    return result
