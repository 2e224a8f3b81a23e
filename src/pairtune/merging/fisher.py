"""Mean of the models' weights, each entry weighted by how much its model's answers depend on it (Fisher merging).

Matena and Raffel, "Merging Models with Fisher-Weighted Averaging", arXiv 2111.09832: near its weights, a tuned model's
posterior is about a Gaussian whose precision is its Fisher information; the weights that are likeliest under all models
at once are the mean of theirs, weighted entry by entry with the diagonal of that.

    F_i = 1/N sum_x E_{y ~ p_i(y | x)} (∇ log p_i(y | x))²        x: N rows of model i's own task; shape of the tensor
    W   = sum_i w_i F_i W_i / sum_i w_i F_i

It is the Fisher information of the model, not the empirical one: y comes from the model's own predictive distribution,
never from the data. Gradients are squared row by row, in float32. A head over at most 16 classes, over several labels
or over a number (taken as the mean of a Gaussian of variance 1) is summed up exactly; of more classes one is drawn a
row, and a language model draws every scored token given the true ones before it, the label alone where the task has
one. The draws depend on the row's number alone.

As in the authors' code (github.com/mmatena/model_merging) each model's F is divided by its norm over all tensors, so
that a task with larger gradients does not outweigh the others; `normalize: false` leaves it. Departures: that code
raises the first model's F to at least 1e-6, which prefers that model; here all are alike, and an entry that no model's
answers depend on is the weighted mean. Heads are merged with all else; the paper leaves them out, its tasks differ.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from pairtune import method
from pairtune.errors import InputError
from pairtune.merging import Merge
from pairtune.merging.weights import normalized

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from pairtune.merging.engine.operands import Operands
    from pairtune.pair.pair import Pair

EXACT = 16  # classes over which the expectation is a sum; each costs a backward pass a row


class Fisher(Merge):
    """Collecting takes three times the model's memory in float32 (weights, gradients, sums of their squares), for a
    delta four times (the base's weights)."""

    needs = frozenset({"samples"})
    models = (2, 1_000_000)
    signed = False

    class Settings(method.Settings):
        normalize: bool = Field(True, description="divide each model's Fisher information by its norm")

    settings: Settings

    def collect(self, pair: Pair, batches: Iterable[dict[str, Any]]) -> dict[str, Tensor]:
        parameters = {name: p for name, p in pair.model.named_parameters() if p.is_floating_point()}
        total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
        own = list(parameters.values())
        count = 0
        for p in own:
            p.requires_grad_(True)
        try:
            for row, batch in enumerate(batches):
                with torch.enable_grad():
                    terms = list(_terms(pair, batch, row))
                    for value, weight in terms:
                        slopes = torch.autograd.grad(value, own, retain_graph=True, allow_unused=True)
                        for one, slope in zip(total.values(), slopes, strict=True):
                            if slope is not None:
                                one.addcmul_(slope, slope, value=weight)
                count += 1
        finally:
            for p in own:
                p.requires_grad_(False)
        for one in total.values():
            one.div_(count)
        if self.settings.normalize:
            norm = math.hypot(*(float(torch.linalg.vector_norm(one, dtype=torch.float64)) for one in total.values()))
            for one in total.values():
                one.div_(norm or 1.0)
        return pair.base.names.to_disk(total)

    def combine(self, piece: Operands, measured: Any) -> Tensor:
        out = piece.value(0)
        shares = [self._information(piece, i) for i in range(len(piece))]
        mean, moved, total = torch.zeros_like(out), torch.zeros_like(out), torch.zeros_like(out)
        for i, weight in enumerate(normalized(piece.weights)):
            # Changes against the first model, so that equal models give it back to the bit.
            change = piece.value(i).sub_(out)
            mean.add_(change, alpha=weight)
            if (share := shares[i]) is not None:
                share.mul_(weight)
                total.add_(share)
                moved.addcmul_(share, change)
        if any(share is None for share in shares):  # no parameter, so that there is nothing to weigh with
            return out.add_(mean)
        known = total > torch.finfo(total.dtype).tiny
        return out.add_(torch.where(known, moved.div_(total.masked_fill_(~known, 1.0)), mean))

    def _information(self, piece: Operands, i: int) -> Tensor | None:
        """Model i's F of the piece; yours to change."""
        found = piece.statistic(i)
        return None if found is None else found.reshape(-1)[piece.start : piece.stop].to(piece.dtype, copy=True)


def _terms(pair: Pair, batch: dict[str, Any], row: int) -> Iterator[tuple[Tensor, float]]:
    """Scalars and weights: a row's F is the sum of weight · (∇ scalar)²."""
    logits = pair.forward(batch).logits
    if logits is None:
        raise InputError(f"{pair.base.source}: this encoder has no head, so that it answers nothing Fisher can be of")
    draws = torch.Generator().manual_seed(row)
    logits = logits.float()
    if pair.base.view == "tokens":
        labels = batch["labels"][0]
        if pair.base.family != "seq2seq":
            labels, logits = labels[1:], logits[:, :-1]
        if bool((labels >= 0).any()):
            yield _drawn(logits[0][labels >= 0], draws), 1.0
        return
    kind = getattr(pair.base.model.config, "problem_type", None)
    outputs = logits[0]
    if kind == "regression":
        yield outputs[0], 1.0
    elif kind == "multi_label_classification":
        for value, p in zip(outputs, outputs.detach().sigmoid().tolist(), strict=True):
            yield value, p * (1 - p)
    else:
        log_p = outputs.log_softmax(-1)
        shares = log_p.detach().exp()
        if len(log_p) > EXACT:
            yield log_p[int(torch.multinomial(shares.cpu(), 1, generator=draws))], 1.0
        else:
            yield from zip(log_p, shares.tolist(), strict=True)


def _drawn(logits: Tensor, draws: torch.Generator) -> Tensor:
    """Σ log p of a token drawn at every place of logits [T, V].

    Draws at different places are independent given the text, so that the square of this sum's gradient is, in
    expectation, the sum of the places' own.
    """
    log_p = logits.log_softmax(-1)
    drawn = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=draws).to(log_p.device)
    return log_p.gather(-1, drawn).sum()
