"""Kullback-Leibler divergence from the base's predictions to the variant's, as a penalty.

Li and Hoiem, "Learning without Forgetting", arXiv 1606.09282, with the temperature of Hinton et al., arXiv 1503.02531:
where the variant's inputs say nothing new, it should answer as its base does.

    penalty = weight · τ² · mean_u Σ_v p(v) · (log p(v) − log q(v))        p = softmax(base logits / τ),
                                                                           q = softmax(variant logits / τ)

u runs over the tokens that the labels choose in a language model, or over the items of a classifier. As in the paper,
the penalty is computed on the tuning data itself; nothing is replayed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from pairtune import method
from pairtune.constraints import Constraint
from pairtune.errors import ConfigError, MissingView

if TYPE_CHECKING:
    from pairtune.pair.outputs import Outputs
    from pairtune.pair.pair import Pair

AT_ONCE = 1 << 22  # elements of one float32 slice of logits: 16 MiB


class KL(Constraint):
    """Penalty on the divergence of the outputs. Refuses a base whose head is new: it has nothing to say yet."""

    needs = frozenset({"base_outputs"})

    class Settings(method.Settings):
        weight: float = Field(0.1, ge=0, description="weight of the divergence (nats per token or item)")
        temperature: float = Field(1.0, gt=0, description="both sides' logits are divided by it")

    settings: Settings

    def prepare(self, pair: Pair) -> None:
        if pair.base.new_names:
            raise MissingView("kl: the base has no trained head to stay near to; use l2sp, or tune a language model")
        config = pair.base.model.config
        one_of_many = (config.num_labels or 0) > 1 and config.problem_type != "multi_label_classification"
        if "tokens" not in pair.views and not one_of_many:
            raise ConfigError(
                ["kl: needs probabilities of tokens, or of classes that exclude one another"], "constraints"
            )

    def penalty(self, pair: Pair, batch: dict[str, Any], out: Outputs) -> Tensor:
        base = pair.base_outputs(batch).logits
        assert base is not None
        assert out.logits is not None
        rows = self._rows(pair, batch, base)
        logits = out.logits[:, -base.shape[1] :] if base.ndim == 3 else out.logits
        width, temperature = base.shape[-1], self.settings.temperature
        if logits.shape[-1] != width:  # tokens that the base does not know have no counterpart
            logits = logits[..., :width]
        total = _SummedKL.apply(logits, base, rows, temperature)
        return self.settings.weight * temperature**2 * total / max(len(rows), 1)  # type: ignore[operator]

    def _rows(self, pair: Pair, batch: dict[str, Any], base: Tensor) -> Tensor:
        """Flat indices of the positions (or items) that count."""
        if base.ndim == 2:
            return torch.arange(len(base), device=base.device)
        scored = batch["labels"] >= 0
        if pair.base.family == "causal":  # position t predicts token t + 1
            scored = torch.cat([scored[:, 1:], torch.zeros_like(scored[:, :1])], dim=1)
        return scored.reshape(-1).nonzero().squeeze(-1)


class _SummedKL(torch.autograd.Function):
    """Σ over rows of KL(base ‖ variant), slice by slice in float32; only the normalisers are kept for the backward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, base: Tensor, rows: Tensor, temperature: float) -> Tensor:
        total = torch.zeros((), dtype=_wide(logits), device=logits.device)
        for part in _slices(rows, logits.shape[-1]):
            q, p = _log_probs(logits, part, temperature), _log_probs(base, part, temperature)
            total += (p.exp() * (p - q)).sum()
        ctx.save_for_backward(logits, base, rows)
        ctx.temperature = temperature
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        logits, base, rows = ctx.saved_tensors
        result = torch.zeros_like(logits.reshape(-1, logits.shape[-1]))
        for part in _slices(rows, logits.shape[-1]):
            q, p = _log_probs(logits, part, ctx.temperature), _log_probs(base, part, ctx.temperature)
            result[part] = ((q.exp() - p.exp()) * (gradient / ctx.temperature)).to(result.dtype)
        return result.view_as(logits), None, None, None


def _log_probs(logits: Tensor, rows: Tensor, temperature: float) -> Tensor:
    return (logits.reshape(-1, logits.shape[-1])[rows].to(_wide(logits)) / temperature).log_softmax(-1)


def _slices(rows: Tensor, width: int) -> tuple[Tensor, ...]:
    return rows.split(max(1, AT_ONCE // width))


def _wide(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
