"""The choke point for weights and JSON: every safetensors file and manifest is opened and written through this roof.

A file is checked before a number of it is used, tensors are memory-mapped, and nothing that can run code (a pickle) is
ever opened. The work is done in `tensorfile.py` (weights) and `disk.py` (JSON, paths, writing whole files).
"""

from __future__ import annotations

from pathlib import Path

from pairtune.errors import FormatError
from pairtune.pair.disk import JSON_LIMIT, PICKLES, read_json, refuse_pickle, safe_join, write_json
from pairtune.pair.tensorfile import SafetensorsFile, write_safetensors

__all__ = [
    "JSON_LIMIT",
    "SafetensorsFile",
    "checkpoint_files",
    "open_safetensors",
    "read_json",
    "refuse_pickle",
    "safe_join",
    "write_json",
    "write_safetensors",
]

_INDEX = "model.safetensors.index.json"
_WEIGHTS = ("model.safetensors", _INDEX, "adapter_model.safetensors")  # the order in which transformers looks


def open_safetensors(path: str | Path) -> SafetensorsFile:
    """Open a safetensors file; `FormatError` names the file and what is wrong with it, before any tensor is read."""
    return SafetensorsFile(path)


def checkpoint_files(folder: str | Path) -> list[Path]:
    """The weights files of a checkpoint or PEFT adapter, single or sharded, in order; all lie within the folder.

    Raises `FormatError` for a shard that is missing or named outside of the folder, and for a folder that has no
    weights or only pickles, which are never opened.
    """
    folder = Path(folder)
    for name in _WEIGHTS:
        path = safe_join(folder, name)
        if path.is_file():
            return _shards(folder, path) if name == _INDEX else [path]
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix.lower() in PICKLES)
    if pickles:
        refuse_pickle(folder / pickles[0])
    raise FormatError(f"{folder}: no weights here; expected one of {', '.join(_WEIGHTS)}")


def _shards(folder: Path, index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{index}: expected a weight_map from each tensor to its file")
    names = list(weight_map.values())
    for name in names:
        if not isinstance(name, str):
            raise FormatError(f"{index}: its weight_map should give names of files, found {str(name)[:200]!r}")
    paths = []
    for name in sorted(set(names)):
        path = safe_join(folder, name)
        if path.suffix != ".safetensors":
            raise FormatError(f"{index}: expected safetensors files in its weight_map, found {name[:200]!r}")
        if not path.is_file():
            raise FormatError(f"{folder}: the shard {name[:200]!r} is missing; copy or download the checkpoint again")
        paths.append(path)
    return paths
