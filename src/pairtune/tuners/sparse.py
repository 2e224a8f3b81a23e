"""Sparse tuning: only K entries of the base's weights may move, the ones that moved most before (LT-SFT).

Ansell et al., "Composable Sparse Fine-Tuning for Cross-Lingual Transfer", arXiv 2110.07560: tune all weights, keep the
K entries that moved farthest, go back to the start, and tune these alone. The sparse differences of a language and of
a task are then simply added to the base.

    θ¹ = all weights tuned from θ⁰;   μ = the K entries with the largest |θ¹ − θ⁰|, over all tensors together
    θ² = tuned from θ⁰ again, gradients multiplied by μ;   φ = θ² − θ⁰, zero outside of μ

The recipe `lt-sft` is both phases: a stage `full`, and a stage `sparse` that `rewind`s it. The norms stay as they are
and a task's head trains whole; neither is counted in K. Gradients are masked as they arise, so before clipping, and
masked entries do not decay: what was not chosen is the base's, bit for bit. `choose: random` is the paper's control
(rand-SFT) and needs no stage before. Departures: K is chosen at once, not over several rounds; two places of the base
that share one tensor (tied embeddings) are one tensor here and counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pairtune import method
from pairtune.errors import InputError
from pairtune.tuners import Tuner

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pairtune.pair.base import Base
    from pairtune.pair.installed import Installed, SwappedParameters


class Sparse(Tuner):
    """K entries of the base's weights and a new head; stored as places and differences."""

    provides = frozenset({"tokens", "labels", "masked", "scale", "merge", "identity_at_start"})
    default_lr = 5e-5
    trainable_share = 0.08

    class Settings(method.Settings):
        density: float = Field(
            0.08, gt=0, le=1, description="share of the base's entries that may move; norms and heads are not counted"
        )
        entries: int | None = Field(None, ge=1, description="how many entries may move, in place of density (K)")
        choose: Literal["moved", "random"] = Field(
            "moved", description="those that the stage before has moved most, or any (the control)"
        )

    settings: Settings
    _earlier: SwappedParameters | None = None

    def misplaced(self, rewinds: bool) -> str | None:
        if rewinds or self.settings.choose == "random":
            return None
        return (
            "sparse chooses what an earlier stage has moved: take the recipe lt-sft (a stage full, then this one with "
            "rewind: true), or choose: random"
        )

    def follow(self, earlier: Installed) -> None:
        """Take over what the stage before has moved. Raises `InputError` where that did not tune the base's weights."""
        from pairtune.pair.installed import SwappedParameters

        if not isinstance(earlier, SwappedParameters):
            raise InputError("tuner sparse: the stage before must tune the base's weights themselves, as full does")
        self._earlier = earlier

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from pairtune.tuners.selection import largest
        from pairtune.tuners.sparse_install import InstalledSparse, may_move

        free = may_move(base)
        total = sum(parameter.numel() for parameter in free.values())
        count = self.settings.entries or max(1, round(self.settings.density * total))
        if count > total:
            raise InputError(
                f"tuner sparse: entries: {count:,} asked for, {base.source} has {total:,} that may move (norms and a "
                "task's head are not counted)"
            )
        chosen = largest(self._random(free) if self.settings.choose == "random" else self._moved(free), count)
        self._earlier = None  # a second set of the base's weights
        return InstalledSparse(base, chosen, self.provides, pair_model)

    def restore(self, base: Base, pair_model: nn.Module, folder: Path) -> Installed:
        from pairtune.tuners.sparse_install import restore_sparse

        return restore_sparse(base, pair_model, folder, self.provides)

    def _moved(self, free: dict[str, nn.Parameter]) -> dict[str, Callable[[], Tensor]]:
        """|θ¹ − θ⁰| of the stage before, in float32; a tensor that it did not tune has moved nowhere."""
        import torch

        if self._earlier is None:
            raise InputError(f"tuner sparse: {self.misplaced(False)}")
        tuned, start = self._earlier.variants, self._earlier.originals
        there = [name for name in free if name in tuned]
        if not any(bool((tuned[name] != start[name]).any()) for name in there):
            raise InputError("tuner sparse: the stage before moved none of the base's weights, so that none stands out")

        def distance(name: str) -> Tensor:
            if name not in tuned:
                return torch.zeros(free[name].shape)
            return (tuned[name].detach().float() - start[name].detach().float()).abs()

        return {name: partial(distance, name) for name in free}

    def _random(self, free: dict[str, nn.Parameter]) -> dict[str, Callable[[], Tensor]]:
        """Uniform scores, the same at every call; their seed comes from the run's own generator."""
        import torch

        seed = int(torch.randint(1 << 62, ()))

        def score(number: int, shape: torch.Size) -> Tensor:
            return torch.rand(shape, generator=torch.Generator().manual_seed(seed + number))

        return {name: partial(score, i, parameter.shape) for i, (name, parameter) in enumerate(free.items())}
