"""The directions of the residual stream that a delta writes to and reads from, by its singular vectors.

GRASP (arXiv 2605.27676), stage 1: a task is spread over many directions, a spurious factor that all rows share is one
direction repeated, so that it leads the spectrum of what tuning changed. With Δ_m the change of layer m and the norm
between layer and stream taken into account (`pair/residual.py`):

    write     M = [.. Δ_m ..] over writers, [d, Σ in]          its left singular vectors
    read      M = [.. Δ_mᵀ ..] over readers, [d, Σ out]        its left singular vectors

A product of factors enters by its QR: of Δ = s B A with Aᵀ = Q R, Δ and s B Rᵀ [d, r] have the same left singular
vectors and values. A dense Δ enters by the same factor of itself, at most [d, d]. Gram matrices are not formed.

The paper's choice of side, layers and normalisation is not public; both sides and all layers, unnormalised, are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pairtune.constraints.directions import Layers, is_among
from pairtune.errors import InputError
from pairtune.pair.compact import LowRank

if TYPE_CHECKING:
    from pairtune.pair.base import Base
    from pairtune.pair.delta import Delta
    from pairtune.pair.part import Part
    from pairtune.pair.residual import Place, Stream

MOST = 8  # directions of a side, at most
GAP = 1.5  # s_k / s_{k+1} from where on there is a gap
SHOWN = 16  # singular values that are kept
Count = int | Literal["gap"]


@dataclass(frozen=True)
class LayerShare:
    """A block, or a kind of layer over all blocks: its part in what was found.

    Attributes:
        name: of it. share: its share of the side's energy ΣΔ². along: share of its own energy along the directions.
        cosine: |cos| of its own leading direction with the side's leading direction.
    """

    name: str
    share: float
    along: float
    cosine: float


@dataclass(frozen=True)
class Side:
    """What one side, "write" or "read", showed.

    Attributes:
        directions: [d, k] orthonormal, float32.
        columns: [d, ≤ d] float64, with the left singular vectors and values of the whole side.
        values: the largest singular values, descending. total: root of the sum of all their squares.
        layers, kinds: by block, and by kind of layer (its name in a block).
        agreement: mean |cos| of the blocks' leading directions with one another.
    """

    name: str
    directions: Tensor
    columns: Tensor
    values: list[float]
    total: float
    layers: list[LayerShare]
    kinds: list[LayerShare]
    agreement: float

    @property
    def k(self) -> int:
        """How many directions."""
        return self.directions.shape[1]

    @property
    def gap(self) -> float:
        """s_k / s_{k+1}; infinite where there is no further one."""
        following = self.values[self.k] if self.k < len(self.values) else 0.0
        return self.values[self.k - 1] / following if following else float("inf")

    @property
    def energy(self) -> list[float]:
        """Share of the squared singular values, one by one."""
        return [(value / self.total) ** 2 for value in self.values]


def identify(delta: Delta, stream: Stream, base: Base, *, k: Count = "gap", layers: Layers = "all") -> dict[str, Side]:
    """The leading directions of a delta on each side, "write" and "read", on which it changes weights.

    Args:
        k: so many directions a side, 1 to 8, or "gap": as many as lie before the largest s_k / s_{k+1}, one where no
            gap is above 1.5.
        layers: which blocks count.

    Raises `InputError` for a delta that is zero on a side.
    """
    sides = {}
    for side, places in (("write", stream.writers), ("read", stream.readers)):
        changed = changed_weights(delta, places, base, layers)
        if changed:
            sides[side] = _side(side, delta, {name: places[name] for name in changed}, changed, base, k)
    return sides


def changed_weights(delta: Delta, places: Mapping[str, Place], base: Base, layers: Layers) -> dict[str, str]:
    """Layer → the name on disk of its weight, for the layers at some places whose weight a delta changes.

    A new head has no weight that could be changed.
    """
    found = {}
    for disk, part in delta.items():
        module, _, kind = (base.names.memory(disk) or "").rpartition(".")
        if module in places and kind == "weight" and part.kind != "module":
            if is_among(places[module].block, len(base.blocks), layers):
                found[module] = disk
    return found


def _side(
    name: str, delta: Delta, places: Mapping[str, Place], changed: Mapping[str, str], base: Base, k: Count
) -> Side:
    by_module = {module: _columns(name, delta, places[module], disk, base) for module, disk in changed.items()}
    together = fold(by_module.values())
    basis, values, _ = torch.linalg.svd(together, full_matrices=False)
    if not values[0] > 0:
        raise InputError(f"the first delta is zero on the {name} side: nothing was learnt there")
    directions = basis[:, : min(_before_gap(values) if k == "gap" else k, len(values))]
    total = float(values.square().sum().sqrt())
    blocks = _grouped(by_module, {module: str(places[module].block) for module in by_module})
    kinds = _grouped(by_module, {module: _kind(module, base) for module in by_module})
    tops = torch.stack([_top(columns) for columns in blocks.values()], dim=1)
    return Side(
        name=name,
        directions=directions.float(),
        columns=together,
        values=values[:SHOWN].tolist(),
        total=total,
        layers=[_share(block, columns, directions, total) for block, columns in blocks.items()],
        kinds=[_share(kind, columns, directions, total) for kind, columns in kinds.items()],
        agreement=_agreement(tops),
    )


def _before_gap(values: Tensor) -> int:
    """How many singular values stand before the largest s_k / s_{k+1} of the first 8; 1 where none is above 1.5."""
    following = values[1 : MOST + 1].clamp(min=1e-12 * values[0])
    gaps = values[: len(following)] / following
    return int(gaps.argmax()) + 1 if len(gaps) and gaps.max() > GAP else 1


def _columns(side: str, delta: Delta, place: Place, disk: str, base: Base) -> Tensor:
    """[d, c ≤ d] columns with the left singular vectors and values of what a layer's change does to the stream."""
    part = delta[disk]
    columns = thin(part, side, place.turned, base.stored(disk) if part.needs_base else None)
    return place.writes(columns) if side == "write" else place.reads(columns)


def thin(part: Part, side: str, turned: bool = False, base: Tensor | None = None) -> Tensor:
    """[n, c] with the left singular vectors and values of Δ [out, in] (side "write") or of Δᵀ (side "read")."""
    if isinstance(part, LowRank):
        left, right = (part.A.T, part.B.T) if turned else (part.B, part.A)  # Δ = s left right, as [out, in]
        near, far = (left, right.T) if side == "write" else (right.T, left)
        factor = torch.linalg.qr(far.detach().double(), mode="r").R
        return part.scale * near.detach().double() @ factor.T
    change = part.difference(base).double()
    if turned != (side == "read"):
        change = change.T
    return fold([change])


def fold(columns: Iterable[Tensor]) -> Tensor:
    """[d, ≤ d] with the left singular vectors and values of all columns side by side."""
    together = torch.cat(list(columns), dim=1)
    if together.shape[1] <= together.shape[0]:
        return together
    return torch.linalg.qr(together.T, mode="r").R.T


def _grouped(by_module: Mapping[str, Tensor], group: Mapping[str, str]) -> dict[str, Tensor]:
    names = list(dict.fromkeys(group.values()))
    return {name: fold(columns for module, columns in by_module.items() if group[module] == name) for name in names}


def _kind(module: str, base: Base) -> str:
    """A layer's name inside of its block: `mlp.down_proj`; its own name where it is in none."""
    inside = next((name for name, _ in base.blocks if module.startswith(f"{name}.")), None)
    return module if inside is None else module.removeprefix(f"{inside}.")


def _top(columns: Tensor) -> Tensor:
    return torch.linalg.svd(columns, full_matrices=False).U[:, 0]


def _share(name: str, columns: Tensor, directions: Tensor, total: float) -> LayerShare:
    energy = float(columns.square().sum())
    along = float((directions.T @ columns).square().sum())
    cosine = abs(float(_top(columns) @ directions[:, 0])) if energy else 0.0
    return LayerShare(name, energy / total**2, along / energy if energy else 0.0, cosine)


def _agreement(tops: Tensor) -> float:
    """Mean |cos| over pairs of columns; 1 for a single one."""
    n = tops.shape[1]
    if n < 2:
        return 1.0
    return float(((tops.T @ tops).abs().sum() - n) / (n * (n - 1)))


def alike(one: Tensor, other: Tensor) -> float:
    """Mean cosine of the principal angles of two subspaces [d, k], [d, k']; |cos| for single directions."""
    return float(torch.linalg.svdvals(one.double().T @ other.double()).mean())


def chance(width: int, k: int, other: int, draws: int = 64) -> float:
    """What `alike` is for random subspaces, on average; about √(2 / πd) for single directions."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(draws):
        a, b = (torch.linalg.qr(torch.randn(width, n, generator=generator)).Q for n in (k, other))
        found.append(alike(a, b))
    return sum(found) / draws
