"""A pair made invariant to a group: run on every transformed input, and combine with learnt importance.

Basu et al., "Efficient Equivariant Transfer Learning from Pretrained Models", arXiv 2305.09900. For a finite group G
that acts on inputs and leaves labels as they are,

    equitune    p(y | x) = 1/|G| · Σ_g p_M(y | g x)
    equizero    p(y | x) = p_M(y | g* x),                g* = argmin_g proxy(p_M(· | g x))
    lambda      p(y | x) = Σ_g λ(g x) p_M(y | g x),      λ(g x) = softmax over G of a network's score of g x

x: [B, ...] becomes its orbit [|G| B, ...], which M reads in one pass; p: [|G|, B, C]. Since λ sees nothing but g x, the
result is the same for x and h x for every h in G, exactly. The network is Linear(d, 100) - ReLU - Dropout 0.5 -
Linear(100, 100) - Dropout 0.5 - Linear(100, 1), on features of a frozen copy of M, also while M itself trains.

Two phases, as in the paper: λ with M frozen, then M with λ frozen (`train: base` in a stage with `rewind: true`; the
recipe `lambda-equitune`). equizero trains M straight through: its value is the selected answer's, its gradient that of
the mean. Scores are normalised over G and probabilities combined (the reference multiplies features by unnormalised
scores); the loss sees log p, not a softmax of it; "confidence" selects the largest top probability. Features are the
mean of the last block's positions, normalised without parameters so that the rate does not depend on the base.

The cost is |G| passes: compare with training on transformed inputs at equal compute. For one label an input; language
models are not served, since what they say would have to be transformed back token by token.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from pairtune import method
from pairtune.errors import InputError
from pairtune.tuners import Tuner

if TYPE_CHECKING:
    from torch import nn

    from pairtune.pair.base import Base
    from pairtune.pair.delta import Delta
    from pairtune.pair.installed import Installed

SINGLE = "single_label_classification"


class Equitune(Tuner):
    """Invariance by averaging, selecting or weighing the answers to transformed inputs."""

    provides = frozenset({"labels"})
    families = frozenset({"encoder"})
    default_lr = 1e-3

    class Settings(method.Settings):
        group: Literal["rot90", "hflip", "vflip", "flip", "rot90-hflip", "words"] = Field(
            "rot90", description="what is done to an input; flip is the half turn"
        )
        cycles: list[list[str]] = Field(
            [], description="group words: words that take one another's place, cycle by cycle, all of one length"
        )
        mode: Literal["lambda", "equitune", "equizero"] = Field(
            "lambda", description="weigh the answers, take their mean, or select one"
        )
        proxy: Literal["entropy", "confidence"] = Field(
            "entropy", description="equizero selects the answer of least entropy, or of the largest top probability"
        )
        train: Literal["weights", "base", "both"] | None = Field(
            None, description="the network of λ, the base, or both; by default the network, without one the base"
        )
        hidden: int = Field(100, ge=1, description="width of the network of λ")
        dropout: float = Field(0.5, ge=0, lt=1, description="dropout in the network of λ")

        @model_validator(mode="after")
        def _fits(self) -> Self:
            if self.train in ("weights", "both") and self.mode != "lambda":
                raise ValueError(f"train: mode {self.mode} has no weights to train; leave train out, or take base")
            if (self.group == "words") != bool(self.cycles):
                raise ValueError("cycles: needed by the group words, and by no other")
            if any(len(cycle) != len(self.cycles[0]) or len(cycle) < 2 for cycle in self.cycles):
                raise ValueError("cycles: all of one length, at least 2 words, since they turn together")
            return self

    settings: Settings
    _weights: nn.Module | None = None

    @property
    def _trains(self) -> str:
        return self.settings.train or ("weights" if self.settings.mode == "lambda" else "base")

    @property
    def _follows(self) -> bool:
        """Whether the weights are those of the stage before."""
        return self.settings.mode == "lambda" and self._trains == "base"

    def misplaced(self, rewinds: bool) -> str | None:
        if rewinds == self._follows:
            return None
        if rewinds:
            return "equitune takes over the weights of the stage before with mode lambda and train base only"
        return (
            "equitune with train base takes its weights from a stage before that trained them: take the recipe "
            "lambda-equitune (that stage, then this one with rewind: true), or train: both"
        )

    def follow(self, earlier: Installed) -> None:
        """Take over the weights of a stage of this tuner. Raises `InputError` where the stage before was another."""
        from pairtune.tuners.equitune_model import InvariantModel

        if not isinstance(earlier.model, InvariantModel) or earlier.model.side.score is None:
            raise InputError("tuner equitune: the stage before must be equitune in mode lambda, whose weights it keeps")
        self._weights = earlier.model.side.score

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        if self._follows and self._weights is None:
            raise InputError(f"tuner equitune: {self.misplaced(False)}")
        return self._install(base, pair_model)

    def _install(self, base: Base, pair_model: nn.Module) -> Installed:
        from pairtune.tuners.equitune_model import install_invariant
        from pairtune.tuners.groups import make_group

        if base.family != "encoder" or getattr(base.model.config, "problem_type", None) != SINGLE:
            raise InputError(
                f"tuner equitune: {base.source} needs a head over classes, of a task with one label an input"
            )
        group = make_group(base, self.settings.group, self.settings.cycles)
        return install_invariant(base, pair_model, group, self.settings, self._trains, self._weights)

    def extract(self, installed: Installed) -> Delta:
        from pairtune.tuners.beside import delta_of

        return delta_of(installed)

    def restore(self, base: Base, pair_model: nn.Module, folder: Path) -> Installed:
        from pairtune.pair.files import open_safetensors
        from pairtune.pair.installed import DELTA_FILE

        installed = self._install(base, pair_model)
        stored = open_safetensors(folder / DELTA_FILE)
        installed.load_state({name: stored.tensor(name) for name in stored})
        return installed
