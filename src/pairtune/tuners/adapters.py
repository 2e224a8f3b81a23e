"""Adapters in the blocks of a base: where they read, where their result goes, and how they are put there.

At each place the sub-layer's contribution f is changed before it joins the residual stream:

    parallel:    f + s · A(u) [+ u]        u: what the sub-layer reads, or the residual stream before its norm
    sequential:  s · A(f) [+ f]

The term in brackets is the adapter's own residual connection, which is usual with `sequential` and not with `parallel`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from pairtune.pair.sublayers import Sublayers, sublayers
from pairtune.tuners.beside import Beside, InstalledBeside
from pairtune.tuners.dense import InstalledDense

if TYPE_CHECKING:
    from pairtune.pair.base import Base

Where = Literal["attention", "ffn"]


@dataclass(frozen=True)
class Place:
    """One adapter's place in every block.

    Attributes:
        where: behind or beside which half. form: parallel or sequential, as in the module's equations.
        residual: the adapter's own residual connection. scale: s.
        stream: whether a parallel adapter reads the residual stream, before the sub-layer's norm.
        mixes: whether the adapter mixes tokens, so that it is told where padding is.
    """

    where: Where
    form: Literal["parallel", "sequential"]
    residual: bool
    scale: float = 1.0
    stream: bool = False
    mixes: bool = False


def halves(where: Literal["both", "ffn"]) -> list[Where]:
    """The halves of a block that a tuner's setting names, in the order in which they run."""
    return ["attention", "ffn"] if where == "both" else ["ffn"]


class AdaptedModel(Beside):
    """A base with an adapter at each place of every block; `side` is the list of them, block by block."""

    def __init__(self, base: Base, call: nn.Module, adapters: nn.Module, places: list[Place], head: nn.Module | None):
        super().__init__(base, call, adapters)
        self._read: dict[int, Tensor] = {}
        self._streams: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._mask: Tensor | None = None
        each: Any = adapters
        for i, (name, block) in enumerate(base.blocks):
            parts = sublayers(name, block)
            for j, place in enumerate(places):
                self._tap(parts, place, each.blocks[i * len(places) + j], (i * len(places) + j))
        if head is not None:
            head.register_forward_pre_hook(self._normalise)

    def forward(self, **inputs: Any) -> Any:
        self._read.clear()
        self._streams.clear()
        self._mask = inputs.get("attention_mask")
        return super().forward(**inputs)

    def _tap(self, parts: Sublayers, place: Place, adapter: nn.Module, key: int) -> None:
        reads, writes = (
            (parts.attention_in, parts.attention_out) if place.where == "attention" else (parts.ffn_in, parts.ffn_out)
        )
        if place.form == "parallel":
            if place.stream:
                for norm in parts.norms:
                    norm.register_forward_hook(self._keep_stream(key))
            reads.register_forward_pre_hook(self._keep_input(key, place.stream))
        writes.register_forward_hook(self._change(key, place, adapter))

    def _keep_stream(self, key: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple, output: Tensor) -> None:
            if self.active:
                self._streams.setdefault(key, []).append((output, args[0]))

        return hook

    def _keep_input(self, key: int, stream: bool) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple) -> None:
            if self.active:
                before = [was for is_, was in self._streams.pop(key, []) if stream and is_ is args[0]]
                # Behind a norm that comes last in its half, what is read is the residual stream itself.
                self._read[key] = before[0] if before else args[0]

        return hook

    def _change(self, key: int, place: Place, adapter: nn.Module) -> Callable[..., Tensor | None]:
        def hook(_module: nn.Module, _args: tuple, out: Tensor) -> Tensor | None:
            if not self.active:
                return None
            read = self._read.pop(key) if place.form == "parallel" else out
            shown = read.to(next(adapter.parameters()).dtype)
            found = adapter(shown, self._mask) if place.mixes else adapter(shown)
            found = place.scale * found.to(out.dtype)
            if place.form == "parallel":
                found = out + found
            return found + read.view_as(found) if place.residual else found

        return hook

    def _normalise(self, _module: nn.Module, args: tuple) -> tuple | None:
        side: Any = self.side
        return (side.head_norm(args[0]), *args[1:]) if self.active else None


class Adapters(nn.Module):
    """All adapters of a model, in the order of the blocks; what they share; and a norm before a new head."""

    def __init__(self, blocks: list[nn.Module], shared: nn.Module | None = None, head_norm: nn.Module | None = None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.shared, self.head_norm = shared, head_norm


def install_adapters(
    base: Base,
    call: nn.Module,
    places: list[Place],
    make: Callable[[int], nn.Module],
    *,
    norms: bool,
    shared: nn.Module | None = None,
    head_norm: bool = False,
    provides: frozenset[str],
) -> InstalledBeside:
    """Put an adapter at each place of every block.

    Args:
        make: gives one adapter for the width of the residual stream.
        norms: whether the base's normalisation layers train, too.
        shared: parameters that all adapters use (one owner, so that they are stored once).
        head_norm: batch normalisation without scale before a new linear head.

    Raises `InputError` for a base whose blocks have no plain attention and feed-forward part.
    """
    from pairtune.pair.names import norm_parameters

    call.requires_grad_(False)
    adapters = [make(base.hidden_size) for _ in base.blocks for _ in places]
    head = _linear_head(base) if head_norm else None
    normalise = _HeadNorm(head.in_features, eps=1e-6, affine=False) if head is not None else None
    side = Adapters(adapters, shared, normalise).to(base.device)
    names = sorted({*base.new_names, *(norm_parameters(base.model) if norms else ())} & base.parameters.keys())
    model = AdaptedModel(base, call, side, places, head)
    dense = InstalledDense(base, names, (), call) if names else None
    possible = {"labels" if base.family == "encoder" else "tokens", "identity_at_start"}
    if normalise is not None:  # it divides by √(1 + eps) from the start
        possible.discard("identity_at_start")
    return InstalledBeside(model.eval(), provides & possible, dense)


def _linear_head(base: Base) -> Any:
    """The new head, where it is one linear layer."""
    owners = {name.rpartition(".")[0] for name in base.new_names}
    heads = [module for name, module in base.model.named_modules() if name in owners]
    return heads[0] if len(heads) == 1 and isinstance(heads[0], nn.Linear) else None


class _HeadNorm(nn.BatchNorm1d):
    """Batch normalisation that takes its running statistics for a batch of a single row, which has no spread."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1:
            return nn.functional.batch_norm(input, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(input)


class Bottleneck(nn.Module):
    """W_up · act(W_down u): down to the bottleneck and up again; W_up and the biases are zero at the start."""

    def __init__(self, width: int, narrow: int, activation: Callable[[Tensor], Tensor], dropout: float = 0.0):
        super().__init__()
        self.down, self.up = nn.Linear(width, narrow), nn.Linear(narrow, width)
        self.activation, self.dropout = activation, nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, u: Tensor) -> Tensor:
        """[..., d] to [..., d]."""
        return self.up(self.dropout(self.activation(self.down(u))))


class ConformerBottleneck(nn.Module):
    """A Conformer's convolution module as an adapter: it mixes neighbouring tokens inside the bottleneck.

    Pointwise to 2b channels, gated to b (GLU), depth-wise convolution over the tokens, batch norm, SiLU, pointwise to
    d; the last one is zero at the start.
    """

    def __init__(self, width: int, narrow: int, kernel: int):
        super().__init__()
        self.into = nn.Conv1d(width, 2 * narrow, 1)
        self.depth = nn.Conv1d(narrow, narrow, kernel, padding=kernel // 2, groups=narrow)
        self.norm = nn.BatchNorm1d(narrow)
        self.out = nn.Conv1d(narrow, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, u: Tensor, mask: Tensor | None) -> Tensor:
        """[B, T, d] to [B, T, d]; where the mask [B, T] is 0 is padding, of which a text's result must not depend."""
        narrow = nn.functional.glu(self.into(u.transpose(1, 2)), dim=1)
        if mask is not None and mask.shape == u.shape[:2]:
            narrow = narrow * mask.unsqueeze(1)
        return self.out(torch.nn.functional.silu(self.norm(self.depth(narrow)))).transpose(1, 2)
