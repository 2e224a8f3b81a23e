"""What the tuner `head` installs: an encoder whose blocks can be skipped when their last output is given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pairtune.pair.logprobs import returning
from pairtune.pair.modality import TEXT
from pairtune.pair.outputs import model_inputs
from pairtune.pair.positions import examples
from pairtune.tuners.dense import InstalledDense
from pairtune.tuners.pooling import hidden_states

if TYPE_CHECKING:
    from pairtune.pair.base import Base

_TOLERANCE = 1e-5
_POSITION_KEYS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


class HeadModel(nn.Module):
    """An encoder under a head.

    `model(**inputs)` is the plain forward; with `features={"first": [B, d]}` the blocks hand that back as their last
    output at the first position, the only one that the head reads.
    """

    def __init__(self, base: Base, call: nn.Module):
        super().__init__()
        self.base_model = call
        self.config = base.model.config
        self._blocks = [block for _, block in base.blocks]

    def train(self, mode: bool = True) -> HeadModel:
        """What holds no trainable parameter stays in evaluation mode: its output is the same in every epoch."""
        super().train(mode)
        for module in self.modules() if mode else ():  # eval() comes here again, and everything is in that mode then
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self

    def forward(self, features: dict[str, Tensor] | None = None, **inputs: Any) -> Any:
        """Logits of the head; `features` as `InstalledHead.features` makes them."""
        if features is None:
            return self.base_model(**inputs)
        first = features["first"].unsqueeze(1)
        with contextlib.ExitStack() as stack:
            for block in self._blocks:
                stack.enter_context(returning(block, first.to(next(block.parameters()).dtype)))
            return self.base_model(**{k: v[:, :1] if k in _POSITION_KEYS else v for k, v in inputs.items()})


class InstalledHead(InstalledDense):
    """A trainable head. "cacheable" is kept only if the shortcut gives the plain forward's logits on this model."""

    def __init__(self, base: Base, names: Iterable[str], provides: Iterable[str], call: nn.Module):
        super().__init__(base, names, provides, HeadModel(base, call))
        self._call = call
        if not self._shortcut_holds():
            self.provides -= {"cacheable"}

    @torch.no_grad()
    def features(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """What the frozen blocks say of a batch: {"first": [B, d]}, the last block's output at the first position."""
        last = len(self.base.blocks)
        modes = [(module, module.training) for module in self._call.modules()]
        self._call.eval()
        try:
            return {"first": hidden_states(self.base, self._call, [last], batch)[last][:, 0]}
        finally:
            for module, mode in modes:
                module.training = mode

    def cache_key(self) -> dict[str, Any]:
        """What the features depend on besides base and data."""
        return {"layers": [len(self.base.blocks)], "pool": "position 0"}

    def _shortcut_holds(self) -> bool:
        if self.base.modality is TEXT:
            ids = torch.arange(6, device=self.base.device).reshape(2, 3) % self.base.vocabulary_rows
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        else:
            batch = examples(self.base, 2)
        inputs = model_inputs(batch)
        self.model.eval()
        try:
            with torch.no_grad():
                plain = self.model(**inputs).logits
                quick = self.model(features=self.features(batch), **inputs).logits
        except (RuntimeError, TypeError, IndexError, AttributeError):
            return False  # a model whose blocks hand on more than one tensor
        return bool((plain - quick).abs().max() <= _TOLERANCE)
