"""Gradients without given directions of the residual stream, so that tuning cannot use them (GRASP; experimental).

Gilligan-Lee, Egan, Zhu and O'Riordan, "GRASP: Unsupervised Identification and Removal of Spurious Correlations During
Fine-Tuning", arXiv 2605.27676: tuning on narrow data also learns what all its rows share; that shared direction is read
off a first delta (`pairtune scrub`), and a second tuning is kept from using it, while the base's own use of it stays.

    P = I − U Uᵀ        U: [d, k] orthonormal, directions of the residual stream

    write       of what is added to the stream (attention output, second feed-forward projection, embeddings):
                ∇Δ ← P ∇Δ, and after every step Δ ← P Δ
    read        of what reads the stream (queries, keys, values, first feed-forward projections, a head):
                ∇Δ ← ∇Δ P, and after every step Δ ← Δ P; the first value, too
    backprop    the stream's gradient behind every block g ← P g; the forward pass is as it was
    both        write and read

A norm between the stream and a layer turns U into what that layer meets (`pair/residual.py`). Re-projection is needed,
since Adam's scale by coordinate, momentum and weight decay leave the subspace. Trained norms are frozen: they would
scale the base's own use of U.

The paper's exact projection is not public: only its abstract was readable. The four variants are this project's
reconstruction, and all of it is experimental; which of them is the default is decided by the reproduction `grasp`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from pairtune import method
from pairtune.constraints import Constraint
from pairtune.constraints.directions import Directions, change_stream, existing
from pairtune.constraints.stream_parameters import Held, StreamParameters
from pairtune.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")
Where = Literal["both", "write", "read", "backprop"]


class Grasp(Constraint):
    """Keeps what trains from writing along, or reading along, directions of the residual stream.

    Raises `ConfigError` for a tuner whose parameters cannot be held, or where none meets the stream; `InputError` for a
    base without a single residual stream or of another width.
    """

    class Settings(method.Settings):
        directions: str = Field(description="file of directions, as pairtune scrub writes it")
        where: Where = Field("both", description="what is kept from using them")
        layers: Literal["all", "middle"] = Field("all", description="which blocks: all, or the middle third")

        @field_validator("directions")
        @classmethod
        def _is_there(cls, value: str) -> str:
            return existing(value)

    settings: Settings
    held: list[Held]
    _handles: list[RemovableHandle]

    def prepare(self, pair: Pair) -> None:
        own = self.settings
        directions = Directions.load(own.directions, pair.base)
        self.held, self._handles = [], []
        if own.where == "backprop":
            self._handles = change_stream(pair, "grasp", own.layers, _blocking(directions.write))
            return
        sides = ("write", "read") if own.where == "both" else (own.where,)
        found = StreamParameters(pair, directions, sides, own.layers)
        if not found.held:
            doing = {"both": "writes to or reads from", "write": "writes to", "read": "reads from"}[own.where]
            raise ConfigError([f"nothing that trains {doing} the residual stream there"], "grasp")
        for norm in found.norms:
            norm.requires_grad_(False)
        if found.norms:
            log.info("grasp: %d norm tensors are frozen: they would scale the base's own use", len(found.norms))
        self.held = found.held
        for one in self.held:
            one.hold()

    def on_gradients(self, pair: Pair) -> None:
        for one in self.held:
            one.hold_gradient()

    def after_step(self, pair: Pair) -> None:
        for one in self.held:
            one.hold()

    def finish(self, pair: Pair) -> None:
        for handle in self._handles:
            handle.remove()


def _blocking(directions: Tensor):
    """Hidden states as they are; their gradient loses its part along the directions."""

    def block(hidden: Tensor) -> None:
        if hidden.requires_grad:  # below the first change nothing flows back
            basis = directions.to(hidden.dtype)
            hidden.register_hook(lambda gradient: gradient - (gradient @ basis) @ basis.T)

    return block
