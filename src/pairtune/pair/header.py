"""The header of a safetensors file, checked in pure Python before any of its numbers is trusted.

Format: 8 bytes little-endian length n, n bytes JSON {name: {dtype, shape, data_offsets}, "__metadata__": {str: str}},
then the tensors' bytes. https://github.com/huggingface/safetensors#format. Stricter than the reference reader in two
points: a repeated key and an unknown field are refused.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from pairtune.errors import FormatError
from pairtune.pair.disk import parse_json

HEADER_LIMIT = 100_000_000  # bytes, as in the reference implementation
METADATA = "__metadata__"
# Bits an element, in the order by which the reference writer sorts types.
BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
_FIELDS = {"dtype", "shape", "data_offsets"}
_LARGEST = 1 << 63


class Entry(NamedTuple):
    """Where a tensor lies: its type as the file spells it, its shape, and its bytes [begin, end) in the whole file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def header_length(first: bytes, size: int, where: str) -> int:
    """The length of the header from a file's first 8 bytes and its size in bytes."""
    if size < 8 or len(first) < 8:
        raise FormatError(f"{where}: {size} bytes are no safetensors file; its first 8 give the length of the header")
    length = int.from_bytes(first[:8], "little")
    if length > HEADER_LIMIT:
        raise FormatError(f"{where}: not a safetensors file: a header of {length:,} bytes (at most {HEADER_LIMIT:,})")
    if length < 2 or 8 + length > size:
        raise FormatError(f"{where}: truncated: the header should have {length:,} bytes, the file has {size:,}")
    return length


def parse_header(data: bytes, size: int, where: str) -> tuple[dict[str, Entry], dict[str, str]]:
    """Tensors and metadata of a header, in a file of `size` bytes.

    Raises `FormatError` unless every type is known, every shape agrees with its bytes, and the tensors fill the file
    exactly: no overlap, no hole, nothing after the last.
    """
    if data[:1] != b"{":
        raise FormatError(f"{where}: not a safetensors file: its header is not JSON")
    with _no_garbage_collection():
        raw = parse_json(data, f"{where}: header")
        metadata = raw.pop(METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise FormatError(f"{where}: {METADATA} should map text to text")
        start = 8 + len(data)
        entries = {}
        for name in list(raw):
            try:
                entries[name] = _entry(raw.pop(name), start)  # popped, so that 10^5 tensors are not in memory twice
            except ValueError as error:
                raise FormatError(f"{where}: tensor {name[:200]!r}: {error}") from None
        _check_filled(entries, start, size, where)
    return entries, metadata


def make_header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str], where: str
) -> tuple[bytes, dict[str, Entry]]:
    """The first bytes of a file that is to hold these tensors, and where in it each of them belongs, in file order.

    `tensors` gives type (as the file spells it) and shape by name. The same bytes as the reference writer's: the widest
    types first, which keeps all aligned, then by name. Raises `FormatError` for text that is no valid Unicode.
    """
    place = {dtype: i for i, dtype in enumerate(BITS)}
    order = sorted(tensors, key=lambda name: (-place[tensors[name][0]], name))
    header: dict = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    spans, at = {}, 0
    for name in order:
        dtype, shape = tensors[name]
        spans[name] = (at, at + (math.prod(shape) * BITS[dtype] >> 3))
        at = spans[name][1]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": list(spans[name])}
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise FormatError(f"{where}: a tensor's name or the metadata is not valid Unicode") from None
    text += b" " * (-len(text) % 8)
    first = len(text).to_bytes(8, "little") + text
    entries = {
        name: Entry(*tensors[name], len(first) + begin, len(first) + end) for name, (begin, end) in spans.items()
    }
    return first, entries


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # 10^5 entries are a million new objects, none of them garbage; looking for cycles among them doubles the time.
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _entry(value: Any, start: int) -> Entry:
    if not isinstance(value, dict) or value.keys() != _FIELDS:
        raise ValueError("expected the fields dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    bits = BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise ValueError(f"unknown dtype {str(dtype)[:40]!r}; a newer file may need a newer pairtune")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise ValueError("expected a list as its shape and two numbers as its data_offsets")
    for number in (*shape, *offsets):
        if type(number) is not int or not 0 <= number < _LARGEST:  # JSON's true would pass isinstance(..., int)
            raise ValueError(f"expected whole numbers from 0 in its shape and offsets, found {str(number)[:40]}")
    for length in shape:
        bits *= length
        if bits >= _LARGEST:
            raise ValueError("its shape is too large for any file")
    begin, end = offsets
    if end - begin != bits >> 3 or bits & 7:
        raise ValueError(f"shape {shape[:16]} of {dtype} takes {bits / 8:,g} bytes, its offsets give {end - begin:,}")
    return Entry(dtype, tuple(shape), start + begin, start + end)


def _check_filled(entries: dict[str, Entry], start: int, size: int, where: str) -> None:
    at, before = start, "the header"
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != at:
            what = "overlaps" if begin < at else "leaves a hole after"
            raise FormatError(f"{where}: tensor {name[:200]!r} {what} {before[:200]!r}")
        at, before = end, name
    if at != size:
        what = "truncated" if at > size else "trailing bytes"
        raise FormatError(f"{where}: {what}: its tensors end at byte {at:,}, the file has {size:,}")
