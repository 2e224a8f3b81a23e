"""Changes that are stored in less room than the tensor that they change: a few places, or a product of thin factors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pairtune.errors import DeltaMismatch
from pairtune.pair.part import CHUNK, Part, expect_floating, factor, frobenius, wide


@dataclass(frozen=True, eq=False)
class Sparse(Part):
    """D is zero but at some places.

    Args:
        shape: shape of D.
        index: int64 [n], the places in the flattened tensor, ascending and unique; `of` sorts and checks.
        values: floating point [n].
    """

    shape: tuple[int, ...]
    index: Tensor
    values: Tensor
    kind: ClassVar[str] = "sparse"

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        expect_floating(values=self.values)
        if self.index.dtype != torch.int64 or self.index.ndim != 1 or self.index.shape != self.values.shape:
            found = f"{list(self.index.shape)} of {self.index.dtype} and {list(self.values.shape)}"
            raise DeltaMismatch(f"a sparse change has index and values of one length, the index int64; found {found}")

    @classmethod
    def of(cls, shape: tuple[int, ...], index: Tensor, values: Tensor) -> Sparse:
        """From places in any order. Raises `DeltaMismatch` for one that occurs twice or lies outside."""
        order = index.argsort()
        part = cls(tuple(shape), index[order], values[order])
        if not part.is_ordered():
            raise DeltaMismatch(f"the places of a sparse change occur twice or lie outside of the shape {list(shape)}")
        return part

    def tensors(self) -> dict[str, Tensor]:
        return {"index": self.index, "values": self.values}

    def notes(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape)}

    def add_to(self, out: Tensor, alpha: float = 1.0, base: Tensor | None = None) -> None:
        out.view(-1).index_add_(0, self.index.to(out.device), self.values.to(out), alpha=alpha)

    def scaled(self, alpha: float, base: Tensor | None = None) -> Part:
        alpha = factor(alpha)
        return self if alpha == 1 else Sparse(self.shape, self.index, self.values.to(self.arithmetic()) * alpha)

    def norm(self, base: Tensor | None = None) -> float:
        return frobenius(self.values)

    def is_ordered(self) -> bool:
        """Whether the index is ascending, unique and within the shape; reads it whole."""
        if not len(self.index):
            return True
        chunks = (self.index[start : start + CHUNK + 1] for start in range(0, len(self.index), CHUNK))
        inside = int(self.index[0]) >= 0 and int(self.index[-1]) < math.prod(self.shape)
        return inside and all(bool((chunk[1:] > chunk[:-1]).all()) for chunk in chunks)


@dataclass(frozen=True, eq=False)
class LowRank(Part):
    """D = scale · B A.

    Args:
        A: [r, d_in], floating point; r may be 0.
        B: [d_out, r], floating point.
    """

    A: Tensor
    B: Tensor
    scale: float = 1.0
    kind: ClassVar[str] = "low-rank"

    def __post_init__(self):
        object.__setattr__(self, "scale", float(self.scale))
        expect_floating(A=self.A, B=self.B)
        if self.A.ndim != 2 or self.B.ndim != 2 or self.A.shape[0] != self.B.shape[1]:
            found = f"A {list(self.A.shape)} and B {list(self.B.shape)}"
            raise DeltaMismatch(f"a low-rank change has A [r, d_in] and B [d_out, r]; found {found}")

    @property
    def rank(self) -> int:
        """Number of rows of A; the product may have a lower rank."""
        return self.A.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.B.shape[0], self.A.shape[1])

    def tensors(self) -> dict[str, Tensor]:
        return {"A": self.A, "B": self.B}

    def notes(self) -> dict[str, Any]:
        return {"kind": self.kind, "scale": self.scale}

    def add_to(self, out: Tensor, alpha: float = 1.0, base: Tensor | None = None) -> None:
        out.addmm_(self.B.to(out), self.A.to(out), alpha=alpha * self.scale)

    def scaled(self, alpha: float, base: Tensor | None = None) -> Part:
        alpha = factor(alpha)
        return self if alpha == 1 else LowRank(self.A, self.B, alpha * self.scale)

    def norm(self, base: Tensor | None = None) -> float:
        """|scale| · ‖R_B R_Aᵀ‖ with B = Q_B R_B and Aᵀ = Q_A R_A, in float64; the product is not formed.

        QR rather than Gram matrices: those would square the error where the factors cancel, as in (x + y) − y.
        """
        right, left = (torch.linalg.qr(wide(x.detach()), mode="r").R for x in (self.A.T, self.B))
        return abs(self.scale) * float(torch.linalg.matrix_norm(left @ right.T))

    def is_finite(self) -> bool:
        return math.isfinite(self.scale) and super().is_finite()
