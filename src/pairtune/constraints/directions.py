"""Directions of the residual stream, as `pairtune scrub` finds them and constraints read them, and hooks that use them.

A file of directions is safetensors with two matrices of orthonormal columns, both in the stream that the blocks hand
on: `write` [d, k], along which an update writes, and `read` [d, k'], along which it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from pairtune.errors import ConfigError, FormatError, InputError
from pairtune.pair.files import open_safetensors, write_safetensors

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from pairtune.pair.base import Base
    from pairtune.pair.pair import Pair

Layers = Literal["all", "middle"]
NAMES = ("write", "read")


@dataclass(frozen=True)
class Directions:
    """Orthonormal columns in the residual stream. write: [d, k] float32; read: [d, k'] float32."""

    write: Tensor
    read: Tensor

    @classmethod
    def of(cls, write: Tensor, read: Tensor | None = None) -> Directions:
        """From any independent columns [d, k], [d, k']; one matrix serves both sides."""
        return cls(orthonormal(write), orthonormal(write if read is None else read))

    @classmethod
    def load(cls, path: str | Path, base: Base) -> Directions:
        """Read a file. Raises `FormatError` for one that holds something else, `InputError` for another width."""
        stored = open_safetensors(path)
        if sorted(stored) != sorted(NAMES) or any(len(stored.shape(name)) != 2 for name in NAMES):
            raise FormatError(f"{path}: expected the matrices write and read of directions, found {', '.join(stored)}")
        found = {name: stored.tensor(name).float() for name in NAMES}
        for name, matrix in found.items():
            if matrix.shape[0] != base.hidden_size:
                raise InputError(
                    f"{path}: its directions have {matrix.shape[0]} numbers, the residual stream of {base.source} has "
                    f"{base.hidden_size}; they belong to another base"
                )
            if not torch.allclose(matrix.T @ matrix, torch.eye(matrix.shape[1]), atol=1e-4):
                raise FormatError(f"{path}: the columns of {name} are not orthonormal")
        return cls(**{name: matrix.to(base.device) for name, matrix in found.items()})

    def save(self, path: str | Path) -> None:
        """Write the file."""
        tensors = {name: getattr(self, name).detach().cpu().contiguous().clone() for name in NAMES}
        write_safetensors(path, tensors, {})


def orthonormal(columns: Tensor) -> Tensor:
    """[d, k] float32: an orthonormal basis of independent columns; a single column keeps its sign."""
    basis, factor = torch.linalg.qr(columns.double())
    signs = torch.where(factor.diagonal() < 0, -1.0, 1.0)
    return (basis * signs).float()


def spanned(columns: Tensor) -> Tensor:
    """[d, q] float32: an orthonormal basis of what any columns [d, k] span, q ≤ k."""
    basis, sizes, _ = torch.linalg.svd(columns.double(), full_matrices=False)
    return basis[:, sizes > 1e-6 * sizes[0]].float()


def existing(path: str) -> str:
    """A setting's value, if it names a file. For validators: raises `ValueError` with what makes one."""
    if not Path(path).is_file():
        raise ValueError("there is no such file of directions; pairtune scrub writes one")
    return path


def is_among(block: int, count: int, layers: Layers) -> bool:
    """Whether a block (from 0, of `count`) is one of those meant; what lies before or behind the blocks is in "all"."""
    return layers == "all" or count // 3 <= block < count - count // 3


def change_stream(
    pair: Pair, name: str, layers: Layers, change: Callable[[Tensor], Tensor | None]
) -> list[RemovableHandle]:
    """Put a change behind blocks, in passes with gradients alone: not in validation, nor on the base's side.

    Args:
        name: of the constraint, for messages.
        change: hidden states [B, T, d] to other ones, or to None where they stay.

    Raises `ConfigError` where the base does not run in training.
    """
    if "cacheable" in pair.top.installed.provides:
        tuner = (pair.top.record.get("tuner") or {}).get("name", "in use")
        raise ConfigError(
            [f"{name}: the tuner {tuner} trains on what the base computed once, and nothing can be changed there"],
            "constraints",
        )

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if not torch.is_grad_enabled():
            return None
        found = change(hidden)
        if found is None:
            return None
        return (found, *output[1:]) if isinstance(output, tuple) else found

    count = len(pair.base.blocks)
    return [
        block.register_forward_hook(hook) for i, (_, block) in enumerate(pair.base.blocks) if is_among(i, count, layers)
    ]
