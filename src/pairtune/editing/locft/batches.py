"""Batches of edits, and their loss: prompts on the left of one line, targets on its end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pairtune.editing.locft.below import Below
from pairtune.pair.logprobs import accepts
from pairtune.pair.views import positions

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")
IGNORED = -100
Ids = tuple[list[int], list[int]]  # prompt, target with its end token


class EditBatches:
    """Edits as a decoder reads them.

    Padding stands on the left, so that all targets end at one place and the head runs over the last positions alone.
    Masks come from lengths: the padding id may be the end token, which is also learnt. The blocks below the delta run
    once for every edit, where their output fits into memory.

    Args:
        pair: the pair whose top delta trains; nothing else of it may change from now on.
        pairs: prompt and target of every edit.
    """

    def __init__(self, pair: Pair, pairs: Sequence[Ids]):
        self.pair, self._pairs = pair, pairs
        self.takes_positions = accepts(pair.base.model, "position_ids")
        self.cuts_logits = accepts(pair.base.model, "logits_to_keep")
        self.below = Below(pair, self.inputs, [len(prompt) + len(target) - 1 for prompt, target in pairs])
        if self.below.fits:
            self.below.compute()
            if not self.below.prove(self.losses):
                log.warning("the blocks below the edited place do not repeat their output here; they run at every step")

    def inputs(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """The model's inputs [B, T] of these edits, which end before the end token."""
        rows = [prompt + target[:-1] for prompt, target in (self._pairs[i] for i in numbers)]
        longest, device = max(len(row) for row in rows), self.pair.base.device
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        found = {"input_ids": ids, "attention_mask": mask}
        return found | ({"position_ids": positions(mask)} if self.takes_positions else {})

    def losses(self, numbers: Sequence[int]) -> Tensor:
        """[B] mean −log p over the target's tokens of these edits, in float32; differentiable."""
        targets = [self._pairs[i][1] for i in numbers]
        width = max(len(target) for target in targets)
        wanted = torch.tensor([[IGNORED] * (width - len(target)) + target for target in targets])
        wanted = wanted.to(self.pair.base.device)
        # The last `width` positions predict the targets. A model without this argument computes all, and is cut here.
        more: dict[str, Any] = {"logits_to_keep": width} if self.cuts_logits else {}
        with self.below.replay(numbers):
            logits = self.pair.model(**self.inputs(numbers), **more, use_cache=False).logits[:, -width:].float()
        each = F.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=IGNORED, reduction="none")
        return each.sum(-1) / (wanted != IGNORED).sum(-1)
