"""What fine-tuning added to a base, as an algebra of named tensors: `+ - *`, norms, selection, conversion."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pairtune.errors import InputError
from pairtune.pair.combine import check_same_shape, plus
from pairtune.pair.convert import convert
from pairtune.pair.part import Part, factor
from pairtune.pair.tensor_names import LAYER, layer_of, matching, naming, natural

if TYPE_CHECKING:
    from pairtune.pair.delta_norms import Norms


class Delta(Mapping[str, Part]):
    """Changes of tensors by their names on disk, in natural order; a tensor that is not named stays as it is.

    Immutable. Nothing is read when it is made: parts may be memory-mapped. A sum has the tensors of both sides; what
    stands on one side only is taken over as it is, so that a stored value keeps its bits.

    Args:
        parts: the change of each tensor.
        base: gives the base's tensor by its name on disk; needed where stored values take part in arithmetic.
        record: where the delta comes from (the base's fingerprint, a run, ...); a sum keeps what both sides agree on.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        base: Callable[[str], Tensor] | None = None,
        record: Mapping[str, Any] | None = None,
    ):
        self._parts = {name: parts[name] for name in sorted(parts, key=natural)}
        self.base = base
        self.record = dict(record or {})

    def __getitem__(self, name: str) -> Part:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return f"<Delta: {self.summary().splitlines()[0]}>"

    # -- arithmetic --------------------------------------------------------------------------------------------------

    def __add__(self, other: Delta) -> Delta:
        return self._plus(other, 1.0) if isinstance(other, Delta) else NotImplemented

    def __radd__(self, other: object) -> Delta:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # sum(deltas) begins with the number 0

    def __sub__(self, other: Delta) -> Delta:
        return self._plus(other, -1.0) if isinstance(other, Delta) else NotImplemented

    def __neg__(self) -> Delta:
        return self * -1.0

    def __mul__(self, alpha: float) -> Delta:
        if isinstance(alpha, Delta):
            return NotImplemented
        alpha = factor(alpha)
        parts = {}
        for name, part in self.items():
            with naming(name):
                # Zero times a change is no change, for which no base is read; a module is asked whether it scales.
                if alpha or part.kind == "module":
                    parts[name] = part.scaled(alpha, self._base_for(name, part) if alpha != 1 else None)
        return Delta(parts if alpha else {}, self.base, self.record)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Delta:
        if isinstance(divisor, Delta):
            return NotImplemented
        if factor(divisor) == 0:
            raise InputError("a delta cannot be divided by 0")
        return self * (1.0 / factor(divisor))

    def _plus(self, other: Delta, alpha: float) -> Delta:
        for name in self:  # all shapes before any work
            if name in other:
                with naming(name):
                    check_same_shape(self[name], other[name])
        base = self.base if self.base is not None else other.base
        foreign = other.base is not None and other.base != base
        parts = dict(self._parts)
        for name, part in other.items():
            with naming(name):
                if foreign and part.needs_base:  # what it is relative to is not the base of the result
                    part = convert(part, "dense", other._base_for(name, part))
                mine = self.get(name)
                if mine is not None:
                    parts[name] = plus(mine, part, alpha, _needed(name, base, mine, part))
                else:
                    parts[name] = part.scaled(alpha, _needed(name, base, part) if alpha != 1 else None)
        agreed = {k: v for k, v in self.record.items() if k in other.record and other.record[k] == v}
        return Delta(parts, base, agreed)

    def _base_for(self, name: str, part: Part) -> Tensor | None:
        return _needed(name, self.base, part)

    # -- the variant -------------------------------------------------------------------------------------------------

    def apply(self, name: str, base_tensor: Tensor) -> Tensor:
        """The variant's tensor in the base tensor's type; a tensor that the delta does not name is handed back.

        The sum is formed in float32 (float64 where a side is float64) and rounded once; a stored value comes out bit
        for bit. Raises `DeltaMismatch` where the shapes differ, `MissingView` for a tensor that the base does not have.
        """
        if name not in self:
            return base_tensor
        with naming(name):
            return self[name].apply(base_tensor)

    def difference(self, name: str) -> Tensor:
        """The dense change of one tensor in float32; `MissingView` where the base is needed and unknown."""
        with naming(name):
            return self[name].difference(self._base_for(name, self[name]))

    # -- looking at it -----------------------------------------------------------------------------------------------

    def norms(self, by: str | re.Pattern[str] = LAYER) -> Norms:
        """Frobenius norms by tensor, by layer and in all, absolute and relative to the base; see `delta_norms`."""
        from pairtune.pair.delta_norms import norms_of

        return norms_of(self, by)

    def non_finite_names(self) -> list[str]:
        """Names of the tensors that hold NaN or infinity."""
        return [name for name, part in self.items() if not part.is_finite()]

    def is_finite(self) -> bool:
        """Whether no stored number is NaN or infinite."""
        return all(part.is_finite() for part in self.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(part.nbytes for part in self.values())

    def summary(self) -> str:
        """What the delta consists of: one line in all, then one a layer. Reads no tensor."""
        layers: dict[str, list[Part]] = {}
        for name, part in self.items():
            layers.setdefault(layer_of(name), []).append(part)
        return "\n".join([_line(list(self.values())), *(f"  {name}: {_line(parts)}" for name, parts in layers.items())])

    # -- parts of it, and other forms --------------------------------------------------------------------------------

    def select(self, *patterns: str | re.Pattern[str]) -> Delta:
        """Only the tensors that a pattern matches: a text is a glob for the whole name, a compiled regex is searched.

        Raises `DeltaMismatch` for a pattern that matches nothing.
        """
        found = matching(self, patterns)
        return Delta({name: part for name, part in self.items() if name in found}, self.base, self.record)

    def drop(self, *patterns: str | re.Pattern[str]) -> Delta:
        """All but the tensors that a pattern matches; patterns as in `select`."""
        found = matching(self, patterns)
        return Delta({name: part for name, part in self.items() if name not in found}, self.base, self.record)

    def to(self, kind: str, rank: int | None = None) -> Delta:
        """Every part as "dense", "sparse" or "low-rank", where that is exact; see `convert.convert`.

        Raises `DeltaMismatch` naming the first tensor whose rank is too high, with the rank that it needs.
        """
        parts = {}
        for name, part in self.items():
            with naming(name):
                parts[name] = convert(part, kind, self._base_for(name, part), rank)
        return Delta(parts, self.base, self.record)


def _needed(name: str, base: Callable[[str], Tensor] | None, *parts: Part) -> Tensor | None:
    """The base's tensor if a part needs it and it can be had; a part that misses it says so itself."""
    return base(name) if base is not None and any(part.needs_base for part in parts) else None


def _line(parts: list[Part]) -> str:
    kinds = Counter(part.kind for part in parts)
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    total = sum(part.nbytes for part in parts)
    tensors = f"{len(parts)} tensor{'' if len(parts) == 1 else 's'}"
    size = f"{total / 1e6:,.1f} MB" if total >= 1e5 else f"{total:,} bytes"
    return f"{tensors} ({counted}), {size}" if parts else "no tensors"
