"""What every kind of change to one tensor can do, and the sums over large tensors that they share.

The kinds themselves are in `parts.py`. With W the base's tensor and D the change, the variant's tensor is W + D.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from pairtune.errors import DeltaMismatch, InputError, MissingView

CHUNK = 1 << 22  # numbers looked at together; a chunk in float64 takes 32 MiB


class Part:
    """The change of one tensor. Parts are immutable, and read none of their tensors when they are made.

    Arithmetic is done in float32, or in float64 where a tensor is float64, whatever the type that is stored.

    Attributes:
        kind: the word for this kind in files, messages and `Delta.to`.
        shape: shape of the variant's tensor.
    """

    kind: ClassVar[str]
    shape: tuple[int, ...]

    @property
    def base_shape(self) -> tuple[int, ...]:
        """Shape of the base's tensor; another one only where rows are added."""
        return self.shape

    @property
    def needs_base(self) -> bool:
        """Whether D is known only together with W."""
        return False

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by the endings that a delta's file gives it."""
        raise NotImplementedError

    def notes(self) -> dict[str, Any]:
        """What a delta's file keeps beside the tensors; `delta_io` reads it back."""
        return {"kind": self.kind}

    def add_to(self, out: Tensor, alpha: float = 1.0, base: Tensor | None = None) -> None:
        """out += alpha · D in place; `out` is contiguous, of the shape of D, in float32 or float64."""
        raise NotImplementedError

    def scaled(self, alpha: float, base: Tensor | None = None) -> Part:
        """alpha · D; the part itself for 1. Kinds that need the base need it here too."""
        raise NotImplementedError

    def norm(self, base: Tensor | None = None) -> float:
        """Frobenius norm of D, summed in float64."""
        raise NotImplementedError

    def difference(self, base: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """D as a dense tensor on the base's device (on its own without a base), rounded to `dtype` at the end.

        Raises `MissingView` where the base is needed and not given, `DeltaMismatch` where it has another shape.
        """
        self.check_base(base)
        device = base.device if base is not None else next(iter(self.tensors().values())).device
        out = torch.zeros(self.shape, dtype=self.arithmetic(dtype), device=device)
        self.add_to(out, 1.0, base)
        return out.to(dtype)

    def apply(self, base: Tensor) -> Tensor:
        """W + D in the base's type, rounded to it once at the end; never the base's own memory.

        Raises `DeltaMismatch` for a base of another shape, or one of whole numbers, to which nothing can be added.
        """
        self.check_base(base)
        if not base.is_floating_point():
            raise DeltaMismatch(f"the base has {base.dtype}, to which no {self.kind} change can be added")
        out = base.to(self.arithmetic(base.dtype), copy=True, memory_format=torch.contiguous_format)
        self.add_to(out, 1.0, base)
        return out.to(base.dtype)

    def arithmetic(self, *dtypes: torch.dtype) -> torch.dtype:
        """The type to compute in: float64 where a tensor of the part, or one of `dtypes`, is float64, else float32."""
        found = {*dtypes, *(tensor.dtype for tensor in self.tensors().values())}
        return torch.float64 if torch.float64 in found else torch.float32

    def check_base(self, base: Tensor | None) -> None:
        """Refuse a base of another shape, or none where one is needed."""
        if base is None:
            if self.needs_base:
                raise MissingView(
                    f"a {self.kind} has no difference without the base; give the base's tensor, or the whole delta its "
                    "base: Delta(parts, base=...)"
                )
        elif tuple(base.shape) != self.base_shape:
            raise DeltaMismatch(f"the base has the shape {list(base.shape)}, the delta expects {list(self.base_shape)}")

    @property
    def nbytes(self) -> int:
        """Bytes of the stored tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    def is_finite(self) -> bool:
        """Whether no stored number is NaN or infinite."""
        return all(is_finite(tensor) for tensor in self.tensors().values())


def factor(alpha: float) -> float:
    """A scaling factor as a float. Raises `InputError` unless it is a finite number."""
    value = float(alpha)
    if not math.isfinite(value):
        raise InputError(f"a delta is scaled by a finite number, found {value}")
    return value


def frobenius(tensor: Tensor, minus: Tensor | None = None) -> float:
    """Frobenius norm of a tensor, or of the difference of two, in float64 and without a copy of the whole."""
    flat, other = tensor.detach().reshape(-1), None if minus is None else minus.detach().reshape(-1)
    norms = []
    for start in range(0, flat.numel(), CHUNK):
        chunk = wide(flat[start : start + CHUNK])
        if other is not None:
            chunk = chunk - wide(other[start : start + CHUNK]).to(chunk.device)
        norms.append(float(torch.linalg.vector_norm(chunk)))
    return math.hypot(*norms)


def wide(tensor: Tensor) -> Tensor:
    """A tensor in float64, on the CPU where its device has no such type."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity, looked at in chunks."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    chunks = tensor.detach().reshape(-1).split(CHUNK)
    return all(bool((c.float() if c.element_size() == 1 else c).isfinite().all()) for c in chunks)


def expect_floating(**tensors: Tensor) -> None:
    """Raise `DeltaMismatch` naming the first tensor that does not hold floating-point numbers."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise DeltaMismatch(f"{name} holds {tensor.dtype}, expected floating-point numbers")
