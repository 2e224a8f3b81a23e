"""The kinds of change that fine-tuning makes to one tensor: each is stored as what it is, and dense only when asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pairtune.errors import DeltaMismatch, MissingView
from pairtune.pair.compact import LowRank, Sparse
from pairtune.pair.part import Part, expect_floating, factor, frobenius
from pairtune.pair.rows import Rows
from pairtune.pair.sign import Sign

__all__ = ["Dense", "LowRank", "Module", "Part", "Rows", "Sign", "Sparse", "Value"]


@dataclass(frozen=True, eq=False)
class Dense(Part):
    """D itself, a floating-point tensor of the base's shape."""

    diff: Tensor
    kind: ClassVar[str] = "dense"

    def __post_init__(self):
        expect_floating(diff=self.diff)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.diff.shape)

    def tensors(self) -> dict[str, Tensor]:
        return {"diff": self.diff}

    def add_to(self, out: Tensor, alpha: float = 1.0, base: Tensor | None = None) -> None:
        out.add_(self.diff.to(out), alpha=alpha)

    def scaled(self, alpha: float, base: Tensor | None = None) -> Part:
        alpha = factor(alpha)
        return self if alpha == 1 else Dense(self.diff.to(self.arithmetic()) * alpha)

    def norm(self, base: Tensor | None = None) -> float:
        return frobenius(self.diff)


@dataclass(frozen=True, eq=False)
class Value(Part):
    """The variant's tensor as it was stored, so that base + delta is the variant bit for bit. D = value − W."""

    value: Tensor
    kind: ClassVar[str] = "value"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def needs_base(self) -> bool:
        return True

    def tensors(self) -> dict[str, Tensor]:
        return {"value": self.value}

    def add_to(self, out: Tensor, alpha: float = 1.0, base: Tensor | None = None) -> None:
        base = self.checked_base(base)
        out.add_(self.value.to(out) - base.to(out), alpha=alpha)

    def scaled(self, alpha: float, base: Tensor | None = None) -> Part:
        alpha = factor(alpha)
        if alpha == 1:
            return self
        base = self.checked_base(base)
        return Dense(self.difference(base, self.arithmetic(base.dtype)) * alpha)

    def norm(self, base: Tensor | None = None) -> float:
        return frobenius(self.value, self.checked_base(base))

    def apply(self, base: Tensor) -> Tensor:
        """The value in the base's type and on its device: the stored tensor itself where it is both already."""
        self.check_base(base)
        if base.is_floating_point() != self.value.is_floating_point():
            raise DeltaMismatch(f"the base has {base.dtype}, the delta's value {self.value.dtype}")
        return self.value.to(base)

    def checked_base(self, base: Tensor | None) -> Tensor:
        """The base's tensor, which must be there and fit."""
        self.check_base(base)
        assert base is not None
        return base


@dataclass(frozen=True, eq=False)
class Module(Part):
    """A tensor that exists in the delta alone: a new head, a side network, an adapter that is no change of a weight.

    It has no difference against a base, so that all arithmetic but by 1 is refused with `MissingView`.

    Args:
        value: the tensor.
        scales: whoever made it says that alpha times it is what alpha times the delta means (a steering vector).
    """

    value: Tensor
    scales: bool = False
    kind: ClassVar[str] = "module"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    def tensors(self) -> dict[str, Tensor]:
        return {"module": self.value}

    def notes(self) -> dict[str, Any]:
        return {"kind": self.kind, "scales": self.scales}

    def scaled(self, alpha: float, base: Tensor | None = None) -> Part:
        alpha = factor(alpha)
        if alpha == 1:
            return self
        if not self.scales:
            raise self.refusal(f"{alpha:g} times it has no meaning")
        return Module(self.value.to(self.arithmetic()) * alpha, scales=True)

    def norm(self, base: Tensor | None = None) -> float:
        """Frobenius norm of the tensor itself."""
        return frobenius(self.value)

    def add_to(self, out: Tensor, alpha: float = 1.0, base: Tensor | None = None) -> None:
        raise self.refusal("it cannot be added to anything")

    def difference(self, base: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        raise self.refusal("it has no difference")

    def apply(self, base: Tensor) -> Tensor:
        raise self.refusal("it cannot be added to the base's tensor; its own .value is what the variant has")

    def refusal(self, why: str) -> MissingView:
        """The error for an operation that needs a difference."""
        return MissingView(
            f"this tensor exists in the delta alone (a new head or module), so that {why}; "
            "drop() it, or select() the tensors that change the base's weights"
        )
