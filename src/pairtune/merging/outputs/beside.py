"""What lies beside the merged weights: configuration, tokenizer, and the card that says how they were made."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from pairtune.merging.inputs.compare import config_of
from pairtune.merging.inputs.sources import Source
from pairtune.pair.card import library_versions
from pairtune.pair.complete import MARKER
from pairtune.pair.disk import open_regular
from pairtune.pair.files import checkpoint_files, open_safetensors, read_json, safe_join, write_json

CARD_FILE = "merge.json"
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
)
_OTHERS = ("preprocessor_config.json", "processor_config.json")
_GENERATION = "generation_config.json"  # names special tokens, and so goes with the tokenizer


def write_beside(
    folder: Path, home: Source, owner: Source, changes: Mapping[str, Any], dtype: torch.dtype | None
) -> None:
    """Write the configuration of `home` with some entries changed, its side files, and the tokenizer of `owner`."""
    config = config_of(home)
    if config:
        inner = config.get("text_config")
        for name, value in changes.items():
            (inner if isinstance(inner, dict) and name in inner else config)[name] = value
        if dtype is not None:
            config["dtype" if "torch_dtype" not in config else "torch_dtype"] = str(dtype).removeprefix("torch.")
        write_json(folder / "config.json", config)
    speaks = owner if owner.folder is not None and (owner.folder / _GENERATION).is_file() else home
    for source, names in ((home, _OTHERS), (owner, _TOKENIZER), (speaks, (_GENERATION,))):
        for name in names:
            if source.folder is not None and safe_join(source.folder, name).is_file():
                with open_regular(source.folder / name) as read, open(folder / name, "wb") as write:
                    shutil.copyfileobj(read, write)


def card(
    method: str,
    settings: Mapping[str, Any],
    models: Sequence[Source],
    weights: Sequence[float] | None,
    base: Source | None,
    figures: Mapping[str, Any],
) -> dict[str, Any]:
    """The record of a merge: what was combined, how, and what was measured."""
    given = weights if weights is not None else [None] * len(models)
    parents = [_parent(model) | {"weight": weight} for model, weight in zip(models, given, strict=True)]
    return {
        "schema_version": 1,
        "method": method,
        "settings": dict(settings),
        "models": parents,
        "base": None if base is None else _parent(base),
        **figures,
        "versions": library_versions(),
    }


def readme(record: Mapping[str, Any]) -> str:
    """The model card, with the hub's metadata, of a merge's record."""
    names = [str(parent["source"]) for parent in record["models"]]
    base = record["base"]
    header = {
        "library_name": "transformers",
        "base_model": list(dict.fromkeys([*names, *([base["source"]] if base else [])])),
        "base_model_relation": "merge",
        "tags": ["pairtune", "merge"],
    }
    lines = ["---", yaml.safe_dump(header, sort_keys=False).strip(), "---", "", "# A merge", ""]
    on = f" on the base {base['source']}" if base else ""
    lines += [
        f"Made by pairtune: {record['method']} of {len(names)} models{on}.",
        "",
        "| model | weight |",
        "|---|---|",
    ]
    lines += [f"| {p['source']} | {'' if p['weight'] is None else p['weight']} |" for p in record["models"]]
    if record["settings"]:
        lines += ["", "| setting | value |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in record["settings"].items()]
    lines += ["", f"`{CARD_FILE}` has the whole record: parents with their hashes, settings, checks, versions."]
    return "\n".join(lines) + "\n"


def _parent(source: Source) -> dict[str, Any]:
    """A model as the card names it: no path of this machine, but hashes by which the files are known again.

    Of a weights file the header is hashed (names, types, shapes, places) and, where its folder was sealed by pairtune,
    the numbers too.
    """
    files = {}
    folder = source.folder
    if folder is not None:
        try:
            paths = checkpoint_files(folder)
        except Exception:
            paths = sorted(folder.glob("*.safetensors"))
        sealed = read_json(folder / MARKER, 64 << 20)["files"] if (folder / MARKER).is_file() else {}
        for path in paths:
            about = {"size": path.stat().st_size, "header": hashlib.sha256(open_safetensors(path).header()).hexdigest()}
            if tensors := sealed.get(path.name, {}).get("tensors"):
                rows = "".join(f"{name}\0{digest}\n" for name, digest in sorted(tensors.items()))
                about["numbers"] = hashlib.sha256(rows.encode()).hexdigest()
            files[path.name] = about
    name = source.label if not Path(source.label).is_absolute() else Path(source.label).name
    return {"source": name, "kind": "checkpoint" if source.delta is None else "delta", "files": files}
