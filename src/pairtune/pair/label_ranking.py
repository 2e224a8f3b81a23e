"""Classify with a language model: rank the labels by log p(label | text), the text being run once.

All labels of one text stand behind it in one row, each seeing the text and itself only (a tree instead of a batch), so
that a text costs its own length plus the labels' lengths rather than their product. The tree is compared with plain
rows on the first text; a model whose attention takes no such mask is ranked row by row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pairtune.errors import InputError, PairtuneError
from pairtune.pair.logprobs import selected_log_probs, token_log_probs
from pairtune.pair.pair import Pair, evaluating

log = logging.getLogger("pairtune")
TOLERANCE = 1e-4


class LabelRanker:
    """log p(label | text) of every label for every text, on the side of the pair that is on.

    Args:
        pair: a pair with the tokens view.
        labels: the token ids of each label, as they follow a text, end token included; at least one id each.
        saying: entered around each pass with [B or 1, T] bool, the positions whose outputs say the labels, for what
            acts there alone.
    """

    def __init__(
        self,
        pair: Pair,
        labels: Sequence[Sequence[int]],
        saying: Callable[[Tensor], AbstractContextManager[Any]] = lambda _: nullcontext(),
    ):
        empty = [i for i, ids in enumerate(labels) if not ids]
        if empty or not labels:
            raise InputError(f"label {empty[0] if empty else 0} has no tokens, so that it cannot be ranked")
        self.pair, self._saying = pair, saying
        self.labels = [list(ids) for ids in labels]
        self._tree: bool | None = None if pair.base.family == "causal" else False

    @torch.inference_mode()
    def rank(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """[B, K] float32 log p(label k | text b), for the token ids of B texts (a text has at least one id)."""
        if any(len(text) == 0 for text in texts):
            raise InputError("a text has no tokens, so that no label can follow it")
        with evaluating(self.pair.model):
            if not self.pair.by_head:
                return self._rank_rows(texts)
            if self._tree is None:
                self._tree = self._prove(texts[0])
            return self._rank_tree(texts) if self._tree else self._rank_rows(texts)

    def _prove(self, text: Sequence[int]) -> bool:
        plain = self._rank_rows([text])
        try:
            quick = self._rank_tree([text])
        except (TypeError, ValueError, RuntimeError, PairtuneError) as error:
            log.info("labels are ranked row by row (%s)", error)
            return False
        equal = bool((plain - quick).abs().max() < TOLERANCE)
        if not equal:
            log.info("labels are ranked row by row: this model does not keep the labels of a row apart")
        return equal

    def _rank_tree(self, texts: Sequence[Sequence[int]]) -> Tensor:
        device = self.pair.base.device
        lengths = torch.tensor([len(text) for text in texts])
        width = int(lengths.max())
        branches = torch.tensor([k for k, ids in enumerate(self.labels) for _ in ids[:-1]], dtype=torch.long)
        offsets = torch.tensor([j for ids in self.labels for j in range(len(ids) - 1)], dtype=torch.long)
        tail = torch.tensor([i for ids in self.labels for i in ids[:-1]], dtype=torch.long)
        padded = pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
        ids = torch.cat([padded, tail.expand(len(texts), -1)], dim=1)
        positions = torch.cat([torch.arange(width).expand(len(texts), -1), lengths[:, None] + offsets], dim=1)
        inputs = {
            "input_ids": ids.to(device),
            "position_ids": positions.to(device),
            "attention_mask": _tree_mask(lengths, width, branches, offsets).to(device, self.pair.base.dtype),
        }
        places, targets, owner = self._targets(lengths, width)
        columns = torch.arange(ids.shape[1])
        with self._saying((columns == lengths[:, None] - 1) | (columns >= width)):
            found = selected_log_probs(
                self.pair.model, self.pair.base.model, inputs, places.to(device), targets.to(device)
            )
        return torch.zeros(len(texts), len(self.labels), device=device).index_add_(1, owner.to(device), found)

    def _targets(self, lengths: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Where each label token is predicted: its first at the text's last token, the others one place before."""
        places, targets, owner = [], [], []
        place = width
        for k, ids in enumerate(self.labels):
            for j, token in enumerate(ids):
                places.append(lengths - 1 if j == 0 else torch.full_like(lengths, place + j - 1))
                targets.append(token)
                owner.append(k)
            place += len(ids) - 1
        tokens = torch.tensor(targets).expand(len(lengths), -1)
        return torch.stack(places, dim=1), tokens, torch.tensor(owner)

    def _rank_rows(self, texts: Sequence[Sequence[int]]) -> Tensor:
        rows = [self._rank_text(list(text)) for text in texts]
        return torch.stack(rows)

    def _rank_text(self, text: list[int]) -> Tensor:
        device = self.pair.base.device
        inner, call = self.pair.base.model, self.pair.model
        if self.pair.base.family == "seq2seq":
            source = torch.tensor([text], device=device).expand(len(self.labels), -1)
            targets = pad_sequence([torch.tensor(ids) for ids in self.labels], True, -100).to(device)
            inputs = self.pair.inputs(
                {"input_ids": source, "attention_mask": torch.ones_like(source), "labels": targets}
            )
            with self._saying(torch.ones(1, targets.shape[1], dtype=torch.bool)):
                return token_log_probs(call, inner, inputs, targets, self.pair.by_head).sum(-1)
        rows = [torch.tensor(text + ids) for ids in self.labels]
        ids = pad_sequence(rows, batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        targets = ids.masked_fill(mask == 0, -100)
        targets[:, : len(text)] = -100
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        with self._saying((torch.arange(ids.shape[1]) >= len(text) - 1)[None]):
            return token_log_probs(call, inner, inputs, targets.to(device), self.pair.by_head).sum(-1)


def _tree_mask(lengths: Tensor, width: int, branches: Tensor, offsets: Tensor) -> Tensor:
    """[B, 1, S, S] additive mask: the text is causal, a label sees the text and its own earlier tokens."""
    size = width + len(branches)
    allowed = torch.zeros(len(lengths), size, size, dtype=torch.bool)
    real = torch.arange(width)[None, :] < lengths[:, None]
    allowed[:, :width, :width] = torch.ones(width, width, dtype=torch.bool).tril() & real[:, None, :]
    allowed[:, width:, :width] = real[:, None, :]
    allowed[:, width:, width:] = (branches[:, None] == branches[None, :]) & (offsets[:, None] >= offsets[None, :])
    allowed |= torch.eye(size, dtype=torch.bool)
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)[:, None]
