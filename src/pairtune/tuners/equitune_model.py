"""The module of the tuner `equitune`: a base that reads the orbit of its input, and what combines the answers."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils.generic import ModelOutput

from pairtune.errors import InputError
from pairtune.pair.installed import plain_parameters
from pairtune.pair.shared import collect_hidden
from pairtune.tuners.beside import Beside, InstalledBeside
from pairtune.tuners.dense import InstalledDense
from pairtune.tuners.groups import Group
from pairtune.tuners.pooling import pool

if TYPE_CHECKING:
    from pairtune.pair.base import Base


# Costs that differ by less are equal: an input that some elements leave as it is has one answer for all of them, but in
# words that are turned back differently. Their mean is what keeps a selection equivariant.
_TIE = 1e-5


class Invariant(nn.Module):
    """Combines |G| answers to one.

    Args:
        mode: "lambda", "equitune" or "equizero". proxy: "entropy" or "confidence".
        score: the network of λ, [N, d] → [N, 1]; None in the other modes.
    """

    def __init__(self, mode: str, proxy: str, score: nn.Module | None):
        super().__init__()
        self.mode, self.proxy = mode, proxy
        self.score = score

    def forward(self, answers: Tensor, features: Tensor | None) -> Tensor:
        """log p(y | x), [B, C] float32, from log p(y | g x), [|G|, B, C], and features of g x, [|G|, B, d].

        With positions, [|G|, B, T, V] and [|G|, B, T, d], every position is combined by itself.
        """
        if self.score is not None:
            assert features is not None
            weights = self.score(features).squeeze(-1).log_softmax(0)
            return (weights.unsqueeze(-1) + answers).logsumexp(0)
        mean = answers.logsumexp(0) - torch.tensor(float(len(answers))).log()
        if self.mode == "equitune":
            return mean
        cost = self.cost(answers)
        best = cost <= cost.amin(0) + _TIE
        selected = answers.masked_fill(~best.unsqueeze(-1), -torch.inf).logsumexp(0) - best.sum(0).log().unsqueeze(-1)
        return mean + (selected - mean).detach()

    def cost(self, answers: Tensor) -> Tensor:
        """The proxy [|G|, B] (or [|G|, B, T]), least for the transform to select."""
        if self.proxy == "confidence":
            return -answers.amax(-1)
        return -(answers.exp() * answers).sum(-1)


def weight_network(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """The network of λ: the score of one transformed input from its features [N, width] → [N, 1]."""
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.Dropout(dropout),
        nn.Linear(hidden, 1),
    )


class InvariantModel(Beside):
    """The base on every transformed input, and the combined answer as its logits (normalised log-probabilities)."""

    side: Invariant

    def __init__(self, base: Base, call: nn.Module, side: Invariant, group: Group, tuned: InstalledDense | None):
        super().__init__(base, call, side)
        self._group, self._tuned = group, tuned
        self._last = [base.blocks[-1][1]]  # in a list, so that it is no submodule twice
        self._speaks = base.view == "tokens"

    def forward(self, **inputs: Any) -> Any:
        if not self.active:
            return self.base_model(**inputs)
        orbit = self._group.orbit(inputs)
        features = None
        if self.side.score is not None and self._tuned is not None:
            features, _ = self._read(orbit, frozen=True)
            _, logits = self._read(orbit)
        else:
            features, logits = self._read(orbit)
        shape = (len(self._group), -1)
        answers = logits.float().log_softmax(-1).unflatten(0, shape)
        if self._speaks:
            answers = self._group.back(answers)
        return ModelOutput(logits=self.side(answers, None if features is None else features.unflatten(0, shape)))

    def _read(self, orbit: dict[str, Any], frozen: bool = False) -> tuple[Tensor | None, Tensor]:
        """Features of the orbit (detached) and the logits; by the weights below this delta where `frozen`.

        A language model's features are those of each position, which has read the tokens before it and no other.
        """
        wanted = [1] if self.side.score is not None else []
        with self._below() if frozen else contextlib.nullcontext(), collect_hidden(self._last, wanted) as found:
            logits = self.base_model(**orbit).logits
        if not wanted:
            return None, logits
        hidden = found[1].detach()
        if self._speaks:
            return F.layer_norm(hidden, hidden.shape[-1:]), logits
        mask = orbit.get("attention_mask")
        mask = torch.ones(hidden.shape[:2], device=hidden.device) if mask is None else mask
        vector = pool(hidden, mask, "mean")
        return F.layer_norm(vector, vector.shape[-1:]), logits

    @contextlib.contextmanager
    def _below(self) -> Iterator[None]:
        """While inside, the base has the weights that it had before this delta, and nothing is kept for a backward."""
        assert self._tuned is not None
        self._tuned.off()
        try:
            with torch.no_grad():
                yield
        finally:
            self._tuned.on()


def install_invariant(
    base: Base, call: nn.Module, group: Group, settings: Any, trains: str, weights: nn.Module | None
) -> InstalledBeside:
    """Put the combination on a base.

    Args:
        settings: of the tuner. trains: "weights", "base", "both" or "nothing".
        weights: the network of λ of an earlier stage, which then stays as it is.

    Raises `InputError` where the base would not train although nothing has trained its head.
    """
    if trains in ("weights", "nothing"):
        now = plain_parameters(base.model)
        if any(now[name] is base.parameters[name] for name in base.new_names):
            raise InputError(
                f"tuner equitune: {base.source} has a new head that no stage has trained, so that its answers say "
                "nothing yet; tune it first, or take train: both"
            )
    call.requires_grad_(False)
    score = None
    if settings.mode == "lambda":
        score = copy.deepcopy(weights) or weight_network(base.hidden_size, settings.hidden, settings.dropout)
        if trains == "base":
            fix(score)
    tuned = InstalledDense(base, base.parameters, (), call) if trains in ("base", "both") else None
    side = Invariant(settings.mode, settings.proxy, score).to(base.device)
    model = InvariantModel(base, call, side, group, tuned).eval()
    return InstalledBeside(model, {"tokens", "moves_logits"} if base.view == "tokens" else {"labels"}, tuned)


def fix(module: nn.Module) -> None:
    """Make every parameter a buffer: part of the state, and nothing that trains."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach().clone())
        if isinstance(part, nn.Dropout):
            part.p = 0.0
