"""Which trained parameters write to the residual stream or read from it, and along which directions they are held.

A matrix W = W0 + Δ of a writer is held by Δ ← (I − Q Qᵀ) Δ, of a reader by Δ ← Δ (I − Q Qᵀ), with Q the directions as
that layer meets them (`pair/residual.py`). Of a low-rank Δ = s B A it is enough to hold B, or A. A new head has no W0:
the whole of it is its Δ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pairtune.constraints.directions import Directions, is_among, spanned
from pairtune.errors import ConfigError
from pairtune.pair.names import norm_parameters
from pairtune.pair.residual import Place, stream_of

if TYPE_CHECKING:
    from pairtune.constraints.directions import Layers
    from pairtune.pair.pair import Pair


@dataclass(frozen=True)
class Held:
    """A parameter [.., n, ..] that may not move along some directions of one of its axes.

    Attributes:
        name: the parameter's. origin: where its Δ is zero; None: at zero.
        axis: which of its axes the directions are of. basis: [n, q], orthonormal columns.
    """

    name: str
    parameter: nn.Parameter
    origin: Tensor | None
    axis: int
    basis: Tensor

    def without(self, change: Tensor) -> Tensor:
        """A change without its part along the directions."""
        basis = self.basis.to(change.dtype)
        if self.axis == 0:
            return change - basis @ (basis.T @ change)
        return change - (change @ basis) @ basis.T

    def hold_gradient(self) -> None:
        """Take the directions out of the gradient."""
        if self.parameter.grad is not None:
            self.parameter.grad.copy_(self.without(self.parameter.grad))

    @torch.no_grad()
    def hold(self) -> None:
        """Take the directions out of the parameter's change."""
        if self.origin is None:
            self.parameter.copy_(self.without(self.parameter))
        else:
            self.parameter.copy_(self.origin + self.without(self.parameter - self.origin))

    def left(self) -> float:
        """Norm of what the change has along the directions."""
        change = self.parameter.detach() - (0.0 if self.origin is None else self.origin)
        return float((self.basis.to(change.dtype).T @ (change if self.axis == 0 else change.T)).norm())


class StreamParameters:
    """The parameters of a pair's top delta that meet the stream.

    Args:
        sides: "write", "read", or both: what is held.
        layers: which blocks count.

    Attributes:
        held: what is to be held.
        norms: trained parameters of norms, which would scale what the base itself writes and reads.

    Raises `ConfigError` naming a trained parameter that nobody can say this of, `InputError` as `stream_of`.
    """

    def __init__(self, pair: Pair, directions: Directions, sides: tuple[str, ...], layers: Layers):
        self._layers: Layers = layers
        self._pair, self._directions, self._sides = pair, directions, sides
        self._stream = stream_of(pair.base)
        self._norms = set(norm_parameters(pair.base.pristine))
        self.held: list[Held] = []
        self.norms: list[nn.Parameter] = []
        self._refuse_masked()
        low_rank = self._low_rank_layers()
        for name, parameter in pair.trainable():
            if not parameter.requires_grad:
                continue
            if id(parameter) in low_rank:
                self._factor(name, parameter, *low_rank[id(parameter)])
            elif (plain := self._plain(name)) is not None:
                self._whole(name, parameter, plain)
            else:
                raise self._refusal(f"{name} neither is a weight of the base nor changes one")

    def _factor(self, name: str, parameter: nn.Parameter, layer: str, side: str) -> None:
        """A or B of a low-rank change: B of a writer has [d, r], A of a reader [r, d]."""
        places = self._stream.writers if side == "write" else self._stream.readers
        if layer in places:
            self._add(name, parameter, None, 0 if side == "write" else 1, {side: places[layer]})

    def _whole(self, name: str, parameter: nn.Parameter, plain: str) -> None:
        """A parameter of the base that trains as it is, or of a new head."""
        if plain in self._norms:
            self.norms.append(parameter)
            return
        module, _, kind = plain.rpartition(".")
        origin = None if plain in self._pair.base.new_names else self._origin(name, plain)
        stream = self._stream
        if module in stream.embeddings:  # rows [V, d] that are written, and read where a head is tied to them
            tied = [one.rpartition(".")[0] for one, own in self._pair.base.names.tied.items() if own == plain]
            places = {"write": stream.embeddings[module]}
            for head in stream.readers.keys() & set(tied):
                places["read"] = stream.readers[head]
            self._add(name, parameter, origin, 1, places)
            return
        if (place := stream.writers.get(module)) is not None:
            turned = place.turned and kind == "weight"
            self._add(name, parameter, origin, 1 if turned else 0, {"write": place})
        if kind == "weight" and (place := stream.readers.get(module)) is not None:
            self._add(name, parameter, origin, 0 if place.turned else 1, {"read": place})

    def _add(
        self, name: str, parameter: nn.Parameter, origin: Tensor | None, axis: int, places: dict[str, Place]
    ) -> None:
        count = len(self._pair.base.blocks)
        met = [
            getattr(place, side)(getattr(self._directions, side))
            for side, place in places.items()
            if side in self._sides and is_among(place.block, count, self._layers)
        ]
        if met:
            self.held.append(Held(name, parameter, origin, axis, spanned(torch.cat(met, dim=1))))

    def _low_rank_layers(self) -> dict[int, tuple[str, str]]:
        """id of a trained factor → the layer that it changes, and the side on which it can be held."""
        from peft.tuners.lora import LoraLayer

        trained = {id(parameter) for _, parameter in self._pair.trainable()}
        found: dict[int, tuple[str, str]] = {}
        for name, module in self._pair.base.model.named_modules():
            if not isinstance(module, LoraLayer):
                continue
            layer: Any = module
            for adapter in layer.lora_A:
                a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
                if id(a) not in trained:
                    continue
                if adapter in layer.lora_magnitude_vector:
                    raise self._refusal("DoRA's magnitudes scale what the base itself writes; leave dora out")
                if any(other.startswith(f"{adapter}_") for other in layer.lora_A):
                    raise self._refusal(
                        "factors taken from the base's weights are no change yet; take lora's init zero"
                    )
                found |= {id(a): (name, "read"), id(b): (name, "write")}
        return found

    def _plain(self, name: str) -> str | None:
        """The base's name of a parameter, whatever wrapper stands around it; None where it has none."""
        if ".modules_to_save." in name:
            before, _, after = name.partition(".modules_to_save.")
            name = f"{before.removeprefix('base_model.model.')}.{after.partition('.')[2]}"
        return name if name in self._pair.base.parameters else None

    def _origin(self, name: str, plain: str) -> Tensor:
        found = self._pair.top.installed.origin(name)
        return self._pair.base.parameters[plain] if found is None else found

    def _refuse_masked(self) -> None:
        whole = sum(parameter.numel() for _, parameter in self._pair.trainable() if parameter.requires_grad)
        if self._pair.top.installed.count() != whole:
            raise self._refusal("it moves chosen entries alone, and a projection moves the others, too")

    def _refusal(self, why: str) -> ConfigError:
        tuner = (self._pair.top.record.get("tuner") or {}).get("name", "in use")
        return ConfigError([f"the tuner {tuner}: {why}; lora, full and bitfit can be held"], "grasp")
