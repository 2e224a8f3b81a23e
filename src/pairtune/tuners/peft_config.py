"""PEFT's configurations: made from settings or read from a folder, checked before PEFT sees them.

PEFT warns about a setting that it does not know and goes on; here an unknown one is an error that names the nearest.
"""

from __future__ import annotations

import dataclasses
import typing
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from pairtune.errors import DeltaMismatch, FormatError, InputError
from pairtune.pair.files import read_json
from pairtune.pair.hub import ADAPTER_FILE
from pairtune.registry import suggest

if TYPE_CHECKING:
    from peft import PeftConfig

    from pairtune.pair.base import Base

# Set by pairtune, from the base and the task.
MANAGED = frozenset(
    {"peft_type", "task_type", "inference_mode", "base_model_name_or_path", "revision", "auto_mapping", "peft_version"}
)
# Reachable by name in PEFT, but not as a delta on a base that stays as it is.
REFUSED = {
    "XLORA": "it mixes adapters that exist already, so there is no single delta to train",
    "POLY": "its forward needs a task id with every row",
    "MULTITASK_PROMPT_TUNING": "its forward needs a task id with every row",
    "OSF": "it rewrites the base's weights",
}
_UNUSABLE: list[tuple[str, Callable[[Any], bool], str]] = [
    (
        "bias",
        lambda v: v != "none",
        "bias: would train the base's own biases in place, so that the base is lost; use 'none'",
    ),
    ("layer_replication", bool, "layer_replication: would change the base's own list of blocks"),
    ("megatron_config", bool, "megatron_config: would import a module by name"),
    ("corda_config", bool, "corda_config: is set by the tuner corda (PEFT's own cache files are pickles)"),
    (
        "init_lora_weights",
        lambda v: isinstance(v, str) and v.startswith(("eva", "loftq", "lora_ga", "corda")),
        "init_lora_weights: needs a preparation that is not run here; pissa and olora do not; there is a tuner corda",
    ),
]
_TASKS = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}
_NEUTRAL = (None, False, [], {}, "")


def config_class(kind: str) -> type[PeftConfig]:
    """PEFT's configuration class of a method such as "lora". Raises `ValueError` for one that cannot be used."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    known = {item.value: item for item in PeftType if item in PEFT_TYPE_TO_CONFIG_MAPPING}
    name = kind.upper()
    if name not in known:
        raise ValueError(f"PEFT has no method {kind!r}{suggest(kind, [one.lower() for one in known])}")
    if name in REFUSED:
        raise ValueError(f"{kind} cannot be used: {REFUSED[name]}")
    return PEFT_TYPE_TO_CONFIG_MAPPING[known[name]]


def problems(kind: str, settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with settings of a PEFT method: unknown names, wrong types, what PEFT itself refuses."""
    try:
        cls = config_class(kind)
    except ValueError as error:
        return [str(error)]
    fields = {field.name: field for field in dataclasses.fields(cls) if field.name not in MANAGED}
    found = []
    for name in settings:
        if name in MANAGED:
            found.append(f"{name}: is set by pairtune, from the base and the task")
        elif name not in fields:
            found.append(f"{name}: peft:{kind} has no such setting{suggest(name, fields)}")
    hints = _hints(cls)
    for name, value in settings.items():
        if name in fields and name in hints and not _fits(hints[name], value):
            found.append(f"{name}: expected {_type_name(hints[name])} (found {value!r})")
    found += [text for name, refused, text in _UNUSABLE if name in settings and refused(settings[name])]
    if not found:
        try:
            _quiet(cls, {**settings, "task_type": "CAUSAL_LM"})
        except (ValueError, TypeError) as error:
            found.append(f"peft:{kind}: {error}")
    return found


def make_config(base: Base, kind: str, settings: Mapping[str, Any], *, heads: bool = True) -> PeftConfig:
    """The configuration for a base; with `heads`, a new head is trained beside the adapter and stored with it."""
    try:
        config = _quiet(config_class(kind), {**settings, "task_type": task_type(base) if heads else None})
    except (ValueError, TypeError) as error:
        raise InputError(f"peft:{kind} on {base.source}: {error}") from None
    config.base_model_name_or_path = base.source
    config.revision = base.revision
    if heads and hasattr(config, "modules_to_save"):
        own = list(config.modules_to_save or [])  # type: ignore[attr-defined]
        own += [name for name in new_modules(base) if name not in own]
        config.modules_to_save = own or None  # type: ignore[attr-defined]
    elif heads and base.new_names:
        raise InputError(f"peft:{kind} cannot train the new head that this task needs; take lora or another method")
    return config


def read_config(folder: Path) -> PeftConfig:
    """The configuration in a PEFT folder.

    Raises `FormatError` for a damaged file, an unknown setting that is not neutral (it was made by a newer PEFT and
    would mean something else here) or one that makes PEFT import a module by name.
    """
    path = Path(folder) / ADAPTER_FILE
    data = read_json(path)
    kind = data.get("peft_type")
    if not isinstance(kind, str):
        raise FormatError(f"{path}: expected peft_type to name a PEFT method, found {kind!r}")
    try:
        cls = config_class(kind)
    except ValueError as error:
        raise FormatError(f"{path}: {error}") from None
    if data.get("megatron_config"):
        raise FormatError(
            f"{path}: megatron_config would import the module {data.get('megatron_core')!r}; not done here"
        )
    data.pop("runtime_config", None)  # describes the machine that trained, as in PEFT itself
    known = {field.name for field in dataclasses.fields(cls)}
    strange = [name for name in data if name not in known and data[name] not in _NEUTRAL]
    if strange:
        raise FormatError(f"{path}: this PEFT does not know {strange[0]} = {data[strange[0]]!r}; upgrade peft")
    if data.get("bias", "none") != "none":
        raise DeltaMismatch(f"{path}: bias = {data['bias']!r} replaces the base's own biases; merge it with PEFT first")
    settings = {name: value for name, value in data.items() if name in known}
    # A prompt that came out of an encoder is stored without it, so that it can be used but not trained further.
    settings["inference_mode"] = kind == "P_TUNING" or bool(settings.get("prefix_projection"))
    try:
        return _quiet(cls, settings)
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(f"{path}: PEFT refuses this configuration ({error})") from None


def to_json(config: PeftConfig) -> dict[str, Any]:
    """A configuration as PEFT writes it: sets as sorted lists, ready for inference."""
    data = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    return {name: data[name] for name in sorted(data)} | {"inference_mode": True}


def task_type(base: Base) -> str:
    """PEFT's name for what the base does."""
    if base.family != "encoder":
        return _TASKS[base.family]
    return "SEQ_CLS" if type(base.model).__name__.endswith("ForSequenceClassification") else "FEATURE_EXTRACTION"


def new_modules(base: Base) -> list[str]:
    """The largest modules of the base all of whose parameters are new: what a task's head consists of."""
    chosen: list[str] = []
    for name, module in base.model.named_modules():
        inside = [f"{name}.{own}" for own, _ in module.named_parameters()]
        if name and inside and all(own in base.new_names for own in inside):
            if not any(name.startswith(outer + ".") for outer in chosen):
                chosen.append(name)
    return chosen


def _quiet(cls: type[PeftConfig], settings: Mapping[str, Any]) -> PeftConfig:
    """PEFT's warnings about combinations of settings are errors in disguise or of no use to the reader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(**settings)


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError):
        return {}  # a type that only exists for type checkers: PEFT's own checks remain


def _fits(hint: Any, value: Any) -> bool:
    try:
        pydantic.TypeAdapter(hint, config={"arbitrary_types_allowed": True}).validate_python(value)
    except pydantic.ValidationError:
        return False
    except pydantic.errors.PydanticUserError:
        return True
    return True


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
