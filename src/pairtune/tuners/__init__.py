"""Where the delta lives: the tuners, one file a method.

A tuner puts something trainable on a base (all its weights, a head, adapters, a side network) and says how that is
switched off again. It knows nothing of losses, data or the loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pairtune.errors import InputError
from pairtune.method import Method

if TYPE_CHECKING:
    from torch import nn

    from pairtune.pair.base import Base
    from pairtune.pair.delta import Delta
    from pairtune.pair.installed import Installed


class Tuner(Method):
    """One place for a delta.

    Attributes:
        provides: what its `Installed` can do: "tokens" (the base's own language-model head speaks), "labels" (a
            classification or regression head), "masked" (an encoder's head says hidden tokens), "scale" (base + alpha ·
            delta has a meaning), "merge" (it can be added into the base's weights), "identity_at_start" (before the
            first step the variant is the base), "cacheable" (it trains from activations that the frozen base computes
            once; see `cache.py`), "moves_logits" (it changes them behind the base's head, so that what it says is read
            off its logits).
        families: the model families that it can be installed on; modalities: what these may read.
        default_lr: peak learning rate that is a sensible start.
        trainable_share: of all numbers of zoo:tiny-lm, how many train with the default settings (two digits); of
            zoo:minilm with two classes where it does not serve causal models. None where the settings decide.
    """

    provides: ClassVar[frozenset[str]] = frozenset()
    families: ClassVar[frozenset[str]] = frozenset({"causal", "seq2seq", "encoder"})
    modalities: ClassVar[frozenset[str]] = frozenset({"text", "image", "audio"})
    default_lr: ClassVar[float] = 1e-4
    trainable_share: ClassVar[float | None] = None

    def misplaced(self, rewinds: bool) -> str | None:
        """Why a stage that takes the delta before it off (`rewind`), or one that does not, cannot have this tuner; None
        where it can."""
        name = type(self).__module__.rpartition(".")[2].replace("_", "-")
        return f"{name} makes nothing of the stage before: leave rewind out, or take sparse" if rewinds else None

    def follow(self, earlier: Installed) -> None:
        """Learn from the delta of the stage before, which has been taken off; called before `install` in a stage that
        rewinds. Raises `InputError` for a delta of which it can make nothing."""
        raise NotImplementedError

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        """Freeze what is there, add what trains, and switch it on.

        Args:
            base: the loaded base.
            pair_model: the module to call for the stack as it stands (the base's model where there is no delta yet).
            calibration: batches of model inputs, for tuners that look at data before they start.

        Raises `InputError` where the tuner cannot stand on this base. New values come from torch's global generator.
        """
        raise NotImplementedError

    def extract(self, installed: Installed) -> Delta:
        """The delta as an algebraic object, by the names on disk."""
        return installed.delta()

    def start(self, base: Base, pair_model: nn.Module, delta: Delta) -> Installed:
        """Install with a delta of weights, whatever made it, as the first value of what trains.

        Raises `InputError` where this tuner cannot hold it.
        """
        raise InputError("start: this tuner goes on with a delta of its own kind only; tuner full takes any weights")

    def restore(self, base: Base, pair_model: nn.Module, folder: Path) -> Installed:
        """Install the delta that `Installed.write` left in a folder. Raises `DeltaMismatch` where it does not fit."""
        installed = self.install(base, pair_model)
        installed.read(folder)
        return installed
