"""A pair made equivariant to a group: run on every transformed input, and combine with learnt importance.

Basu et al., "Efficient Equivariant Transfer Learning from Pretrained Models", arXiv 2305.09900. For a finite group G
that acts on inputs x and, where the model says words, on answers y,

    equitune    p(y | x) = 1/|G| · Σ_g p_M(g y | g x)
    equizero    p(y | x) = p_M(g* y | g* x),             g* = argmin_g proxy(p_M(· | g x))
    lambda      p(y | x) = Σ_g λ(g x) p_M(g y | g x),    λ(g x) = softmax over G of a network's score of g x

x: [B, ...] becomes its orbit [|G| B, ...], which M reads in one pass; p: [|G|, B, C]. Since λ sees nothing but g x,
p(h y | h x) = p(y | x) for every h in G, exactly. Labels stay as they are (g y = y). A language model's words turn with
the text: G permutes token ids, p_M(g y | ·) is read off the vocabulary by that permutation, and the next token of every
position is combined by itself, so that a text's likelihood is a product as ever. The network is Linear(d, 100) - ReLU -
Dropout 0.5 - Linear(100, 100) - Dropout 0.5 - Linear(100, 1), on features of a frozen copy of M, also while M trains:
the last block's positions, for labels their mean, normalised without parameters so that the rate does not depend on M.

Three ways to train. Nothing (`train: nothing`): mean or selection of a model as it is; such a run takes no step, and
what it leaves is evaluated and scored like any pair. For a base without a head, tune it in a stage before. Two phases,
as in the paper: λ with M frozen, then M with λ frozen (`train: base` in a stage with `rewind: true`; the recipe
`lambda-equitune`). M alone under the mean or the selection: equizero's value is the selected answer's, its gradient
that of the mean.

Departures: scores are normalised over G and probabilities combined (the reference multiplies features by unnormalised
scores); the loss sees log p, not a softmax of it; "confidence" selects the largest top probability. On language models
equizero selects for each token, as a model that reads from left to right has no whole answer yet to judge; of
transforms that tie the mean is taken, for before the first of its words a text is the same to all of them.

The cost is |G| passes, and for language models |G| · [B, T, V] logits in float32: compare with training on transformed
inputs at equal compute.
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
    from pairtune.pair.installed import Installed

SINGLE = "single_label_classification"


class Equitune(Tuner):
    """Equivariance by averaging, selecting or weighing the answers to transformed inputs."""

    provides = frozenset({"labels", "tokens", "moves_logits"})
    modalities = frozenset({"text", "image"})
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
        train: Literal["weights", "base", "both", "nothing"] | None = Field(
            None, description="the network of λ, the base, both or nothing; by default the network, else the base"
        )
        hidden: int = Field(100, ge=1, description="width of the network of λ")
        dropout: float = Field(0.5, ge=0, lt=1, description="dropout in the network of λ")

        @model_validator(mode="after")
        def _fits(self) -> Self:
            if self.train in ("weights", "both") and self.mode != "lambda":
                raise ValueError(f"train: mode {self.mode} has no weights to train; take base or nothing")
            if self.train == "nothing" and self.mode == "lambda":
                raise ValueError("train: the weights of mode lambda have to be trained; take equitune or equizero")
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

        if base.family == "encoder" and getattr(base.model.config, "problem_type", None) != SINGLE:
            raise InputError(
                f"tuner equitune: {base.source} needs a head over classes, of a task with one label an input"
            )
        group = make_group(base, self.settings.group, self.settings.cycles)
        return install_invariant(base, pair_model, group, self.settings, self._trains, self._weights)

    def restore(self, base: Base, pair_model: nn.Module, folder: Path) -> Installed:
        installed = self._install(base, pair_model)
        installed.read(folder)
        return installed
