"""Rows that tuning appended to a matrix: the embeddings of added tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pairtune.errors import DeltaMismatch
from pairtune.pair.part import Part, expect_floating, factor, frobenius, is_finite


@dataclass(frozen=True, eq=False)
class Rows(Part):
    """Rows appended to a matrix (embeddings of added tokens), with or without a change of the rows that were there.

    In the algebra the base's missing rows count as zeros. A fraction of a new row therefore is a fraction from zero;
    `Pair.at` refuses it, since a model with half a token means nothing.

    Args:
        first_row: number of rows of the base's matrix.
        rows: [n, d], floating point.
        old: change of the base's rows [first_row, d]; None where they stay.
    """

    first_row: int
    rows: Tensor
    old: Part | None = None
    kind: ClassVar[str] = "rows"

    def __post_init__(self):
        expect_floating(rows=self.rows)
        if self.rows.ndim < 1 or self.first_row < 0:
            raise DeltaMismatch(
                f"added rows have a shape [n, ...], found {list(self.rows.shape)} from {self.first_row}"
            )
        if self.old is not None and (self.old.kind in ("rows", "module") or self.old.shape != self.base_shape):
            found = f"{self.old.kind} {list(self.old.shape)}"
            raise DeltaMismatch(f"rows are added to a change of the shape {list(self.base_shape)}, found {found}")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.first_row + self.rows.shape[0], *self.rows.shape[1:])

    @property
    def base_shape(self) -> tuple[int, ...]:
        return (self.first_row, *self.rows.shape[1:])

    @property
    def needs_base(self) -> bool:
        return self.old is not None and self.old.needs_base

    def tensors(self) -> dict[str, Tensor]:
        return {"rows": self.rows, **(self.old.tensors() if self.old is not None else {})}

    def notes(self) -> dict[str, Any]:
        old = None if self.old is None else self.old.notes()
        return {"kind": self.kind, "first_row": self.first_row, "old": old}

    def add_to(self, out: Tensor, alpha: float = 1.0, base: Tensor | None = None) -> None:
        if self.old is not None:
            self.old.add_to(out[: self.first_row], alpha, base)
        out[self.first_row :].add_(self.rows.to(out), alpha=alpha)

    def scaled(self, alpha: float, base: Tensor | None = None) -> Part:
        alpha = factor(alpha)
        if alpha == 1:
            return self
        old = None if self.old is None else self.old.scaled(alpha, base)
        return Rows(self.first_row, self.rows.to(self.arithmetic()) * alpha, old)

    def norm(self, base: Tensor | None = None) -> float:
        return math.hypot(frobenius(self.rows), 0.0 if self.old is None else self.old.norm(base))

    def apply(self, base: Tensor) -> Tensor:
        """[first_row + n, d] in the base's type; the rows as stored, bit for bit where the type is the same."""
        self.check_base(base)
        return torch.cat([base if self.old is None else self.old.apply(base), self.rows.to(base)])

    def is_finite(self) -> bool:
        return is_finite(self.rows) and (self.old is None or self.old.is_finite())
