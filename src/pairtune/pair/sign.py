"""A change of which every entry is stored in one bit: its sign, with one size for the whole tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor

from pairtune.errors import DeltaMismatch
from pairtune.pair.part import CHUNK, Part, factor


@dataclass(frozen=True, eq=False)
class Sign(Part):
    """D = scale · s with s = +1 or −1 for every entry.

    Liu et al., "BitDelta: Your Fine-Tune May Only Be Worth One Bit", arXiv 2402.10193. For a change δ, s = sign(δ) and
    scale = mean |δ| are the nearest of this form: ‖δ − D‖² = ‖δ‖² − n · scale². An entry of 0 counts as negative.

    Args:
        shape: shape of D, of n entries.
        bits: uint8 [⌈n / 8⌉], one bit an entry of the flattened tensor, from the lowest; 1 is +. Those beyond n are 0.
        scale: floating point [].
    """

    shape: tuple[int, ...]
    bits: Tensor
    scale: Tensor
    kind: ClassVar[str] = "sign"

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        count = -(-math.prod(self.shape) // 8)
        if self.bits.dtype != torch.uint8 or tuple(self.bits.shape) != (count,):
            found = f"{list(self.bits.shape)} of {self.bits.dtype}"
            raise DeltaMismatch(f"signs of {list(self.shape)} take {count:,} bytes of uint8, found {found}")
        if self.scale.ndim or not self.scale.is_floating_point():
            raise DeltaMismatch(f"signs have one size, a floating-point number; found {list(self.scale.shape)}")

    @classmethod
    def of(cls, change: Tensor) -> Sign:
        """The nearest to a dense change."""
        flat = change.detach().reshape(-1)
        total = sum(float(chunk.double().abs().sum()) for chunk in flat.split(CHUNK))
        bits = torch.cat([torch.empty(0, dtype=torch.uint8), *packed(flat.split(CHUNK))])
        return cls(tuple(change.shape), bits, torch.tensor(total / max(flat.numel(), 1), dtype=torch.float32))

    def tensors(self) -> dict[str, Tensor]:
        return {"bits": self.bits, "scale": self.scale}

    def notes(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape)}

    def part(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """D of the entries [start, stop) of the flattened tensor."""
        first = start // 8
        known = self.bits[first : -(-stop // 8)].cpu().numpy()
        found = torch.from_numpy(numpy.unpackbits(known, bitorder="little")[start - 8 * first : stop - 8 * first])
        return found.to(dtype).mul_(2).sub_(1).mul_(self.scale.to(dtype).cpu())

    def add_to(self, out: Tensor, alpha: float = 1.0, base: Tensor | None = None) -> None:
        flat = out.view(-1)
        for start in range(0, flat.numel(), CHUNK):
            chunk = flat[start : start + CHUNK]
            chunk.add_(self.part(start, start + len(chunk), chunk.dtype).to(chunk.device), alpha=alpha)

    def scaled(self, alpha: float, base: Tensor | None = None) -> Part:
        alpha = factor(alpha)
        return self if alpha == 1 else Sign(self.shape, self.bits, self.scale.to(self.arithmetic()) * alpha)

    def norm(self, base: Tensor | None = None) -> float:
        return math.sqrt(math.prod(self.shape)) * abs(float(self.scale))


def packed(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """The bits of a flattened change that comes in pieces of any lengths, as uint8 pieces: 1 where it is above 0."""
    rest = torch.empty(0, dtype=torch.bool)
    for piece in pieces:
        above = torch.cat([rest, piece.reshape(-1).cpu() > 0])
        whole = len(above) // 8 * 8
        rest = above[whole:]
        if whole:
            yield torch.from_numpy(numpy.packbits(above[:whole].numpy(), bitorder="little"))
    if len(rest):
        yield torch.from_numpy(numpy.packbits(rest.numpy(), bitorder="little"))
