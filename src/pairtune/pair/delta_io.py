"""A delta in one safetensors file.

The tensors of `<name>` have the keys `<name>::diff`, `::value`, `::index` and `::values`, `::A` and `::B`, `::bits` and
`::scale`, `::rows` (with those of the change of the old rows beside it) or `::module`. The metadata gives the format,
its version, and as JSON what kind each part is, with what its tensors do not say (a scale, a shape), and the delta's
record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pairtune.errors import DeltaMismatch, FormatError
from pairtune.pair.delta import Delta
from pairtune.pair.disk import parse_json
from pairtune.pair.files import SafetensorsFile, open_safetensors, write_safetensors
from pairtune.pair.parts import Dense, LowRank, Module, Part, Rows, Sign, Sparse, Value
from pairtune.pair.tensor_names import some

FORMAT, VERSION = "pairtune-delta", "1"
# By kind: the endings of its tensors' keys, and its notes with the type that each must have.
_KINDS: dict[str, tuple[tuple[str, ...], dict[str, type]]] = {
    "dense": (("diff",), {}),
    "value": (("value",), {}),
    "sparse": (("index", "values"), {"shape": list}),
    "low-rank": (("A", "B"), {"scale": float}),
    "sign": (("bits", "scale"), {"shape": list}),
    "rows": (("rows",), {"first_row": int, "old": dict}),
    "module": (("module",), {"scales": bool}),
}


def save_delta(delta: Delta, path: str | Path) -> None:
    """Write a delta to a file, whole or not at all; every tensor in its own type, bit for bit.

    Raises `DeltaMismatch` naming the tensors that hold NaN or infinity, `DiskFull`, and `FormatError` for tensors that
    share memory or a record that is not JSON.
    """
    _refuse_non_finite(delta.non_finite_names(), f"{path}: not written")
    tensors = {f"{name}::{ending}": t for name, part in delta.items() for ending, t in part.tensors().items()}
    notes = {name: part.notes() for name, part in delta.items()}
    try:
        metadata = {"parts": json.dumps(notes), "record": json.dumps(delta.record, allow_nan=False)}
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path}: the delta's record cannot be written as JSON: {error}") from None
    write_safetensors(path, tensors, {"format": FORMAT, "version": VERSION, **metadata})


def load_delta(path: str | Path, base: Callable[[str], Tensor] | None = None, check: bool = True) -> Delta:
    """Open a delta's file; its tensors are memory-mapped and read when they are used.

    Args:
        base: gives the base's tensor by its name on disk.
        check: look at every number now, in chunks, so that nothing that is NaN, infinite or out of place passes.

    Raises `FormatError` for a file that is damaged, of another format, or that lacks or adds a tensor, `DeltaMismatch`
    naming the tensors that hold NaN or infinity.
    """
    stored = open_safetensors(path)
    metadata = stored.metadata()
    if metadata.get("format") != FORMAT:
        raise FormatError(f"{path}: not a {FORMAT} file (its metadata gives the format as {metadata.get('format')!r})")
    if metadata.get("version") != VERSION:
        found = metadata.get("version")
        raise FormatError(f"{path}: version {found!r} of the format; this pairtune reads version {VERSION!r}")
    notes = parse_json(metadata.get("parts", "").encode(), f"{path}: its list of parts")
    record = parse_json(metadata.get("record", "{}").encode(), f"{path}: its record")
    parts = {}
    keys: set[str] = set()
    for name, note in notes.items():
        try:
            parts[name] = _read(stored, name, note, keys)
        except (DeltaMismatch, ValueError) as error:
            raise FormatError(f"{path}: {name[:200]!r}: {error}") from None
    if extra := sorted(set(stored) - keys):
        raise FormatError(f"{path}: holds {len(extra)} tensors that none of its parts has: {some(extra)}")
    if check:
        _check_numbers(stored, parts)
    return Delta(parts, base, record)


def _read(stored: SafetensorsFile, name: str, note: Any, keys: set[str]) -> Part:
    """One part from its notes; adds the keys that it takes. `ValueError` says what is wrong with the notes."""
    kind = note.get("kind") if isinstance(note, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"expected a kind of change, one of {', '.join(_KINDS)}; found {str(kind)[:40]!r}")
    endings, fields = _KINDS[kind]
    found = {key: value for key, value in note.items() if key != "kind"}
    wrong = found.keys() ^ fields.keys() or {k for k, v in found.items() if not _is(v, fields[k])}
    if wrong:
        raise ValueError(f"its notes do not fit a {kind} change: {some(sorted(wrong))}")
    tensors = []
    for ending in endings:
        key = f"{name}::{ending}"
        if key not in stored:
            raise ValueError(f"the tensor {key[:200]!r} is missing")
        keys.add(key)
        tensors.append(stored.tensor(key))
    if kind == "rows":
        old = None if found["old"] is None else _read(stored, name, found["old"], keys)
        return Rows(found["first_row"], tensors[0], old)
    return _make(kind, tensors, found)


def _make(kind: str, tensors: list[Tensor], notes: Mapping[str, Any]) -> Part:
    match kind:
        case "dense":
            return Dense(*tensors)
        case "value":
            return Value(*tensors)
        case "sparse":
            return Sparse(tuple(notes["shape"]), *tensors)
        case "low-rank":
            return LowRank(*tensors, scale=notes["scale"])
        case "sign":
            return Sign(tuple(notes["shape"]), *tensors)
    return Module(*tensors, scales=notes["scales"])


def _is(value: Any, expected: type) -> bool:
    """Whether a note has its type: a scale is finite, a shape a list of lengths, rows may have no old change."""
    if expected is dict:
        return value is None or (isinstance(value, dict) and value.get("kind") not in ("rows", "module"))
    if expected is list:
        return isinstance(value, list) and all(_is(length, int) for length in value)
    if expected is int:
        return type(value) is int and 0 <= value < 1 << 63
    return type(value) is expected and (expected is not float or math.isfinite(value))


def _check_numbers(stored: SafetensorsFile, parts: Mapping[str, Part]) -> None:
    owner = {f"{name}::{ending}": name for name, part in parts.items() for ending in part.tensors()}
    _refuse_non_finite([owner[key] for key in stored.non_finite(owner)], str(stored.path))
    for name, part in parts.items():
        within = part.old if isinstance(part, Rows) else part
        if isinstance(within, Sparse) and not within.is_ordered():
            raise FormatError(f"{stored.path}: {name[:200]!r}: its index is not ascending within {list(within.shape)}")


def _refuse_non_finite(names: list[str], where: str) -> None:
    if names:
        names = list(dict.fromkeys(names))
        raise DeltaMismatch(f"{where}: {len(names)} tensors of the delta hold NaN or infinite values: {some(names)}")
