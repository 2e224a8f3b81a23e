"""What a model's folder asks for besides its weights: code, kernels, pickles, or files outside of it. All refused.

transformers and PEFT act on names in JSON files. Each of these has led to code or files that a user did not choose:
`auto_map` (Python from the hub), kernels named as an attention implementation, an import named by an adapter, pickled
side files of adapters, and lists of file names that are joined to the folder unchecked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pairtune.errors import FormatError
from pairtune.pair.disk import read_json, safe_join

_READ_BY_LOADERS = (".json", ".safetensors", ".txt", ".model", ".jinja", ".tiktoken", ".spm")
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
_KERNELS += tuple(f"{name}_internal" for name in _KERNELS[1::2])
_FILE_LISTS = ("configuration_files", "fast_tokenizer_files")
_IMPORTED = ("transformers.", "diffusers.")
_TEMPLATES = "additional_chat_templates"


def refuse_remote_code(folder: str | Path) -> None:
    """Raise `FormatError` naming the first file in `folder` that asks for code, pickles, or files outside of it.

    Looks at every `*config*.json` (of the model, tokenizer, processors, generation, adapter), at any depth of nesting,
    and at symbolic links among the files that loaders open. Imports and runs nothing.
    """
    folder = Path(folder)
    names = sorted(os.listdir(folder))
    if _TEMPLATES in names:
        names += [f"{_TEMPLATES}/{name}" for name in sorted(os.listdir(safe_join(folder, _TEMPLATES)))]
    for name in names:
        if name.lower().endswith(_READ_BY_LOADERS):
            path = safe_join(folder, name)
            if name.endswith(".json") and "config" in name and path.is_file():
                for key, value in _items(read_json(path, constants=True, objects=False)):
                    if reason := _reason(folder, key, value):
                        raise FormatError(f"{path}: {reason}")


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and its value in nested JSON."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield from item.items()
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _reason(folder: Path, key: str, value: Any) -> str | None:
    """Why this entry is refused; None if it is harmless."""
    if not value:
        return None
    if key == "auto_map":
        return (
            "auto_map asks for Python code from the model's author to be run, which pairtune never does; if "
            "transformers has this architecture itself, remove auto_map from a copy of the folder"
        )
    if key == "auto_mapping":
        library = value.get("parent_library") if isinstance(value, dict) else value
        if not f"{library}.".startswith(_IMPORTED):
            return (
                f"auto_mapping asks for the import of {str(library)[:200]!r}; only transformers and diffusers are known"
            )
    if key == "trust_remote_code":
        return "it asks for trust_remote_code; pairtune never runs code that comes with a model"
    if key in _KERNELS and any("/" in str(name) for name in (value.values() if isinstance(value, dict) else [value])):
        return f"{key} asks for a kernel from the hub ({str(value)[:200]!r}), which is code; remove the entry in a copy"
    if key == "prompt_tuning_init_state_dict_path":
        return f"{key} names a file that PEFT would unpickle ({str(value)[:200]!r}); remove the entry in a copy"
    if key == "transformers_weights":
        return (
            f"transformers_weights names its own weights file ({str(value)[:200]!r}); rename that to model.safetensors"
        )
    if key == "megatron_core" and value != "megatron.core":
        return f"megatron_core asks for the import of {str(value)[:200]!r}"
    if key in _FILE_LISTS:
        for name in value if isinstance(value, list) else [value]:
            safe_join(folder, str(name))
    return None
