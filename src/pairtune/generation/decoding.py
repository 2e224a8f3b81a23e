"""How the next token is chosen: the likeliest, drawn, or by beam search; and where writing stops.

Drawing is done row by row, each with random numbers of its own: with E_v ~ Exp(1) from the row's generator,

    token = argmax_v p_v / E_v        which is v with probability p_v

so that what a prompt becomes depends on the seed and on the prompt, and on nothing that is written beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pydantic
import torch
from pydantic import Field

from pairtune import method
from pairtune.errors import ConfigError
from pairtune.method import problems_of

if TYPE_CHECKING:
    from torch import Tensor


class Decoding(method.Settings):
    """What can be set of writing."""

    max_new_tokens: int = Field(128, ge=1, description="most tokens that are written")
    temperature: float = Field(0.0, ge=0, description="0 takes the likeliest token, above 0 one is drawn")
    top_k: int | None = Field(None, ge=1, description="draw among the k likeliest tokens")
    top_p: float | None = Field(None, gt=0, le=1, description="draw among the likeliest that have this probability")
    beams: int = Field(1, ge=1, description="beams of a beam search")
    stop: tuple[str, ...] = Field((), description="texts at which writing stops; they are not part of the result")
    seed: int = Field(0, ge=0, description="the same seed and prompt give the same text")

    @pydantic.model_validator(mode="after")
    def _fit(self) -> Decoding:
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise ValueError("top_k and top_p are about drawing; give a temperature above 0, or leave them out")
        if self.beams > 1 and self.temperature > 0:
            raise ValueError("a beam search takes the likeliest texts; leave temperature out, or beams")
        if not all(self.stop):
            raise ValueError("stop: an empty text would stop everything")
        return self

    @classmethod
    def of(cls, **values: Any) -> Decoding:
        """From plain values. Raises `ConfigError` naming every wrong one."""
        try:
            return cls(**values)
        except pydantic.ValidationError as error:
            raise ConfigError(problems_of(error, model=cls), "generate") from None


def processors(decoding: Decoding, prompts: Sequence[Sequence[int]]) -> list[Any]:
    """transformers' logits processors for a batch, so that the likeliest token of what they give is the one chosen."""
    if decoding.temperature == 0:
        return []
    from transformers.generation import logits_process as warpers

    found: list[Any] = [warpers.TemperatureLogitsWarper(decoding.temperature)]
    found += [warpers.TopKLogitsWarper(decoding.top_k)] if decoding.top_k else []
    found += [warpers.TopPLogitsWarper(decoding.top_p)] if decoding.top_p else []
    return [*found, _Drawn([_number(decoding.seed, ids) for ids in prompts])]


class _Drawn:
    """Scores [B, V] to log p − log E, E from the generator of each row."""

    def __init__(self, seeds: Sequence[int]):
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        drawn = [torch.empty(scores.shape[1]).exponential_(generator=one) for one in self._generators]
        return scores.float() - torch.stack(drawn).log().to(scores.device)


def _number(seed: int, ids: Sequence[int]) -> int:
    """The seed of a prompt's own generator."""
    text = f"{seed}:{','.join(map(str, ids))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")
