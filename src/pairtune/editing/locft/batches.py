"""Batches of edits, and their loss: prompts on the left of one line, targets on its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pairtune.pair.logprobs import accepts
from pairtune.pair.views import positions

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

IGNORED = -100
Ids = tuple[list[int], list[int]]  # prompt, target with its end token


class EditBatches:
    """Edits as a decoder reads them.

    Padding stands on the left, so that all targets end at one place and the head runs over the last positions alone.
    Masks come from lengths: the padding id may be the end token, which is also learnt.

    Args:
        pairs: prompt and target of every edit.
    """

    def __init__(self, pair: Pair, pairs: Sequence[Ids]):
        self.pair, self._pairs = pair, pairs
        self.takes_positions = accepts(pair.base.model, "position_ids")
        self.cuts_logits = accepts(pair.base.model, "logits_to_keep")

    def inputs(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """The model's inputs of these edits, targets included."""
        chosen = [self._pairs[i] for i in numbers]
        return self._inputs(chosen, max(len(target) for _, target in chosen))[0]

    def losses(self, numbers: Sequence[int]) -> Tensor:
        """[B] mean −log p over the target's tokens of these edits, in float32; differentiable."""
        chosen = [self._pairs[i] for i in numbers]
        width = max(len(target) for _, target in chosen)
        inputs, targets = self._inputs(chosen, width)
        # The last `width` positions predict the targets. A model without this argument computes all, and is cut here.
        more: dict[str, Any] = {"logits_to_keep": width} if self.cuts_logits else {}
        logits = self.pair.model(**inputs, **more, use_cache=False).logits[:, -width:].float()
        each = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
        return each.sum(-1) / (targets != IGNORED).sum(-1)

    def _inputs(self, chosen: Sequence[Ids], width: int) -> tuple[dict[str, Tensor], Tensor]:
        """The model's inputs [B, T], which end before the end token, and the targets [B, width]."""
        rows = [prompt + target[:-1] for prompt, target in chosen]
        longest = max(width, *(len(row) for row in rows))
        device = self.pair.base.device
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        targets = [[IGNORED] * (width - len(target)) + target for _, target in chosen]
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.takes_positions:
            inputs["position_ids"] = positions(mask)
        return inputs, torch.tensor(targets, device=device)
