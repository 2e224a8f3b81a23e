"""What detectors read of a batch: log-probabilities, logits, pooled states; computed once and kept in the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pairtune.errors import InputError, MissingView
from pairtune.pair.pair import evaluating
from pairtune.pair.views import LogRatio, log_probs
from pairtune.tuners.pooling import default_pool, hidden_states, pool, readable_blocks

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

Part = Literal["question", "answer", "both", "answer-given-question"]
HOLDER = {"question": "question", "answer": "answer", "both": "with_answer", "answer-given-question": "with_answer"}
QUESTION, ANSWER = 1, 2  # the marks of `parts`; 0 marks what belongs to the template


def holder(batch: dict[str, Any], part: str) -> dict[str, Any]:
    """The batch that holds a part's tokens."""
    return batch if HOLDER[part] == "question" else batch[HOLDER[part]]


def log_ratio(pair: Pair, batch: dict[str, Any], part: str) -> LogRatio:
    """Both sides' log-probabilities of a part; `both` and `answer-given-question` come from one forward a side.

    The mask leaves out the template: start and end tokens, the separator, a chat template's own words.
    """
    held = holder(batch, part)
    if "log_ratio" not in held:
        held["log_ratio"] = pair.log_ratio(held)
    found: LogRatio = held["log_ratio"]
    return replace(found, mask=found.mask & part_mask(held, part)) if "parts" in held else found


def part_mask(held: dict[str, Any], part: str) -> Tensor:
    """[B, T] which tokens belong to the part."""
    return held["parts"] == ANSWER if part == "answer-given-question" else held["parts"] > 0


def side_log_probs(pair: Pair, batch: dict[str, Any], part: str, side: str = "variant") -> tuple[Tensor, Tensor]:
    """([B, T] log-probabilities, 0 where not scored; [B, T] which count) of one side."""
    held = holder(batch, part)
    if "log_ratio" in held:
        found = log_ratio(pair, batch, part)
        return torch.where(found.mask, getattr(found, side), 0.0), found.mask
    if side not in held:
        if side == "base":
            with pair.off():
                held[side] = log_probs(pair, held)
        else:
            held[side] = log_probs(pair, held)
    values, mask = held[side]
    mask = mask & part_mask(held, part) if "parts" in held else mask
    return torch.where(mask, values, 0.0), mask


def row_sum(values: Tensor) -> Tensor:
    """[B] sums of [B, T] in float64, so that padding cannot move the last digit."""
    return values.double().sum(-1).float()


def logits(pair: Pair, batch: dict[str, Any]) -> Tensor:
    """[B, C] float32 of the variant: its classification head's, or a language model's log p(label | text)."""
    if "class_logits" not in batch:
        batch["class_logits"] = side_logits(pair, batch)
    return batch["class_logits"]


def side_logits(pair: Pair, batch: dict[str, Any]) -> Tensor:
    """The same of the side that is on, not kept."""
    if "ranker" in batch:
        return batch["ranker"].rank(batch["label_texts"])
    with evaluating(pair.model):
        found = pair.forward(batch).logits
    if found is None or found.ndim != 2:
        raise MissingView("this pair has no classification head, so that there are no class logits")
    return found.float()


def pooled(pair: Pair, batch: dict[str, Any], layer: int, how: str) -> Tensor:
    """[B, d] float32: one vector a text from the side that is on.

    Args:
        layer: 1-based, −1 is the last; on an encoder-decoder, of the encoder.
        how: "mean", "first", "last", or "auto" (mean on encoders, last on decoder-only models).
    """
    key = f"pooled {layer} {how} {pair._active}"
    if key not in batch:
        blocks = len(readable_blocks(pair.base))
        index = layer if layer > 0 else blocks + 1 + layer
        if not 1 <= index <= blocks:
            raise InputError(f"layer {layer}: this model has layers 1 to {blocks}, or −1 for the last")
        with evaluating(pair.model):
            states = hidden_states(pair.base, pair.model, [index], pair.inputs(batch))[index]
        batch[key] = pool(states, batch["attention_mask"], default_pool(pair.base) if how == "auto" else how)
    return batch[key]
