"""Tensors in a safetensors file: read memory-mapped after the header was checked, written whole."""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pairtune.errors import FormatError
from pairtune.pair.disk import open_regular, replacing
from pairtune.pair.header import METADATA, Entry, header_length, make_header, parse_header

if TYPE_CHECKING:  # torch is imported where a tensor is made: reading a header does not need it
    from torch import Tensor

TORCH_NAMES = {
    "BOOL": "bool", "F4": "float4_e2m1fn_x2", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16",
    "I32": "int32", "U32": "uint32", "F32": "float32", "C64": "complex64", "F64": "float64", "I64": "int64",
    "U64": "uint64",
}  # fmt: skip
_NEVER_NON_FINITE = ("BOOL", "F4", "F6", "U", "I")
_CHUNK = 1 << 22  # elements looked at together; a chunk in float32 takes 16 MiB


class SafetensorsFile:
    """A checked safetensors file: names, shapes and metadata at once, tensors when asked for.

    It shows the file as it was when opened, also when another takes its name later.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with open_regular(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            length = header_length(file.read(8), size, str(path))
            self._entries, self._metadata = parse_header(file.read(length), size, str(path))
            # Tensors get a private, writable view: who changes one in place changes neither the file nor `raw`.
            flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
            try:
                self._stored = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
                self._private = mmap.mmap(file.fileno(), size, flags, mmap.PROT_READ | mmap.PROT_WRITE)
            except (OSError, ValueError) as error:
                raise FormatError(f"{path}: cannot be mapped into memory: {error}") from None

    def keys(self) -> list[str]:
        """The tensors' names, in the order of the header."""
        return list(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return self._entry(name).shape

    def dtype(self, name: str) -> str:
        """A tensor's stored type, as safetensors spells it ("F32", "BF16", ...)."""
        return self._entry(name).dtype

    def metadata(self) -> dict[str, str]:
        """The file's own notes, text to text."""
        return dict(self._metadata)

    def raw(self, name: str) -> memoryview:
        """A tensor's stored bytes, read-only, without a copy."""
        entry = self._entry(name)
        return memoryview(self._stored)[entry.begin : entry.end]

    def header(self) -> memoryview:
        """The bytes before the first tensor: length and JSON."""
        length = int.from_bytes(self._stored[:8], "little")
        return memoryview(self._stored)[: 8 + length]

    def tensor(self, name: str) -> Tensor:
        """A tensor on the CPU, in its stored type, memory-mapped; a change in place does not reach the file."""
        import torch

        entry = self._entry(name)
        dtype = getattr(torch, TORCH_NAMES.get(entry.dtype, ""), None)
        shape = list(entry.shape)
        if entry.dtype == "F4" and shape:
            shape[-1], odd = divmod(shape[-1], 2)  # torch packs two of them into a byte
            dtype = None if odd else dtype
        if dtype is None:
            raise FormatError(f"{self.path}: tensor {name!r}: this torch has no type for {entry.dtype}")
        if entry.begin == entry.end:
            return torch.empty(shape, dtype=dtype)
        stored = torch.frombuffer(self._private, dtype=torch.uint8, count=entry.end - entry.begin, offset=entry.begin)
        if entry.begin % dtype.itemsize:
            stored = stored.clone()  # some writers do not align their header
        return stored.view(dtype).view(shape)

    def non_finite(self, names: Iterable[str] | None = None) -> list[str]:
        """Those of the named tensors (all, if none are named) that hold NaN or infinity; 16 MiB are used at most."""
        found = []
        for name in self._entries if names is None else names:
            if not self.dtype(name).startswith(_NEVER_NON_FINITE) and not _is_finite(self.tensor(name)):
                found.append(name)
        return found

    def _entry(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise FormatError(f"{self.path}: there is no tensor {name!r} in this file") from None


def _is_finite(tensor: Tensor) -> bool:
    for chunk in tensor.reshape(-1).split(_CHUNK):
        values = chunk.float() if chunk.dtype.itemsize == 1 else chunk
        # NaN and infinity survive in a sum, which is quicker; large finite values may overflow one.
        if not values.sum().isfinite() and not values.isfinite().all():
            return False
    return True


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors (any device and stride) to a safetensors file, replacing it whole.

    The same bytes for the same input, and the same as the reference writer's. Raises `DiskFull` before it begins where
    the disk has no room, and `FormatError` naming both where two tensors share memory (tied weights).
    """
    path, metadata = Path(path), dict(metadata or {})
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise FormatError(f"{path}: metadata should map text to text")
    spelled = _spellings(path, tensors)
    _refuse_shared(path, tensors)
    shapes = {}
    for name, tensor in tensors.items():
        shape = list(tensor.shape)
        if spelled[name] == "F4" and shape:
            shape[-1] *= 2
        shapes[name] = (spelled[name], tuple(shape))
    first, entries = make_header(shapes, metadata, str(path))
    with replacing(path, max((entry.end for entry in entries.values()), default=len(first))) as file:
        file.write(first)
        for name in entries:
            file.write(_bytes_of(tensors[name]))


def _spellings(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Each tensor's type as the format spells it."""
    import torch

    known = {getattr(torch, name): dtype for dtype, name in TORCH_NAMES.items() if hasattr(torch, name)}
    for name, tensor in tensors.items():
        if name == METADATA or tensor.dtype not in known or tensor.is_meta or tensor.layout != torch.strided:
            raise FormatError(f"{path}: cannot write {name!r}: a {tensor.layout} {tensor.dtype} on {tensor.device}")
    return {name: known[tensor.dtype] for name, tensor in tensors.items()}


def _refuse_shared(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Two names of one memory would come back as two tensors, so that what was tied no longer is."""
    spans = []
    for name, tensor in tensors.items():
        if tensor.numel():
            reach = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
            begin = tensor.data_ptr()
            spans.append((str(tensor.device), begin, begin + reach * tensor.element_size(), name))
    spans.sort()
    for first, second in itertools.pairwise(spans):
        if first[0] == second[0] and second[1] < first[2]:
            raise FormatError(
                f"{path}: cannot write {first[3]!r} and {second[3]!r}: they share memory (tied weights, or views of "
                "one tensor); leave one of them out, or clone() it"
            )


def _bytes_of(tensor: Tensor) -> memoryview:
    import torch

    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
