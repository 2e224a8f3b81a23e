"""A checkpoint folder as a lazy mapping from stored name to tensor, and the fingerprint of what it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from pairtune.errors import FormatError
from pairtune.pair.files import SafetensorsFile, checkpoint_files, open_safetensors
from pairtune.pair.processor import Processor


class Checkpoint(Mapping[str, Tensor]):
    """Tensors of a safetensors checkpoint, single or sharded, read when asked for and memory-mapped."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._file: dict[str, SafetensorsFile] = {}
        for path in checkpoint_files(self.folder):
            opened = open_safetensors(path)
            for name in opened.keys():
                if name in self._file:
                    raise FormatError(f"{path}: the tensor {name} is also stored in another shard of this checkpoint")
                self._file[name] = opened

    def __getitem__(self, name: str) -> Tensor:
        return self._file[name].tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._file))

    def __len__(self) -> int:
        return len(self._file)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a stored tensor, from the header alone."""
        return tuple(self._file[name].shape(name))

    def dtype(self, name: str) -> str:
        """Stored type of a tensor, as safetensors spells it ("F32", "BF16", ...)."""
        return str(self._file[name].dtype(name))

    def digest(self, name: str) -> str:
        """SHA-256 of a tensor's stored bytes (32 hexadecimal digits), without a copy."""
        return hashlib.sha256(self._file[name].raw(name)).hexdigest()[:32]


@dataclass(frozen=True)
class TensorPrint:
    """What is remembered of one stored tensor."""

    shape: tuple[int, ...]
    dtype: str
    digest: str


@dataclass(frozen=True)
class Fingerprint:
    """The identity of a base: its stored tensors, and apart from them its tokenizer.

    `weights` hashes the sorted (name, shape, stored bytes); names are without the base model's prefix, so that an
    encoder saved bare and the same encoder loaded under a task head agree. A new head is not part of it.
    """

    weights: str
    tokenizer: str | None
    tensors: dict[str, TensorPrint] = field(repr=False)

    @classmethod
    def of(cls, checkpoint: Checkpoint, names: Iterable[str], prefix: str, tokenizer: str | None) -> Fingerprint:
        """Fingerprint of the stored tensors `names` of a checkpoint."""
        tensors = {
            name.removeprefix(prefix + "."): TensorPrint(
                checkpoint.shape(name), checkpoint.dtype(name), checkpoint.digest(name)
            )
            for name in sorted(names)
        }
        return cls(_digest_of(tensors), tokenizer, tensors)

    def first_difference(self, other: Fingerprint) -> str | None:
        """One phrase naming the first tensor that differs (shapes are compared before contents); None if equal."""
        for name in sorted(self.tensors.keys() | other.tensors.keys()):
            mine, theirs = self.tensors.get(name), other.tensors.get(name)
            if mine is None or theirs is None:
                return f"{name} is only in the {'other' if mine is None else 'expected'} base"
            if mine.shape != theirs.shape:
                return f"{name} has the shape {list(theirs.shape)}, expected {list(mine.shape)}"
        for name in sorted(self.tensors):
            if self.tensors[name] != other.tensors[name]:
                return f"{name} has other values"
        return None

    def to_json(self) -> dict:
        """As it stands in a card."""
        tensors = {name: [list(t.shape), t.dtype, t.digest] for name, t in self.tensors.items()}
        return {"weights": self.weights, "tokenizer": self.tokenizer, "tensors": tensors}

    @classmethod
    def from_json(cls, data: dict) -> Fingerprint:
        """The inverse of `to_json`; raises `FormatError` when its parts disagree with its digest."""
        try:
            tensors = {
                n: TensorPrint(tuple(shape), dtype, digest) for n, (shape, dtype, digest) in data["tensors"].items()
            }
            weights, tokenizer = data["weights"], data["tokenizer"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"the card's fingerprint is damaged ({type(error).__name__}: {error})") from None
        if weights != _digest_of(tensors):
            raise FormatError("the card's fingerprint is damaged: its tensors do not add up to its digest")
        return cls(weights, tokenizer, tensors)


def _digest_of(tensors: Mapping[str, TensorPrint]) -> str:
    rows = [[name, list(t.shape), t.dtype, t.digest] for name, t in sorted(tensors.items())]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def tokenizer_digest(tokenizer) -> str:
    """SHA-256 over vocabulary, merges and special ids: what decides which ids a text becomes.

    Of a processor of images or sound, over the settings that decide what these become.
    """
    if isinstance(tokenizer, Processor):
        return tokenizer.digest()
    content: dict = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special": {name: str(value) for name, value in sorted(tokenizer.special_tokens_map.items())},
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        # Truncation and padding are settings of a call, not of the vocabulary, and calling sets them.
        content["backend"] = {key: state.get(key) for key in ("normalizer", "pre_tokenizer", "post_processor")}
        content["merges"] = (state.get("model") or {}).get("merges")
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
