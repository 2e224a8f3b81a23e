"""Features of several rows to one batch of tensors, padded to the longest of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pairtune.data.forms import IGNORED
from pairtune.errors import DataError, InputError
from pairtune.pair.processor import Processor

if TYPE_CHECKING:
    from pairtune.data.encode import Features


class Collator:
    """Pads and stacks features.

    A batch holds (B rows, T tokens of the longest):
        input_ids, attention_mask [B, T] int64; the mask comes from the rows' lengths, so that a padding id that is also
            a real token (often the end token) hides nothing.
        pixel_values [B, C, H, W] or input_values [B, frames, mel bins] float32 instead of input_ids where the base
            reads images or sound; the mask [B, T] is 1 then, for its T positions.
        token_type_ids [B, T], where the features have them.
        position_ids [B, T] int64, causal: the number of real tokens before each, whatever the padding side.
        labels: [B] int64 (classes) or float32 (numbers); [B, C] float32 (multilabel); [B, T] or [B, T'] int64 token
            ids, −100 where nothing is scored. Absent where no row has one; where only some have a
            class, the others' is −100.
        target [B, T] bool, causal: the tokens of the completion.
        index [B] int64: the row numbers, where the features have them.

    Packed features (`packing.py`) bring `position_ids` of their own; their batch has no attention mask, since the
    positions tell the documents apart, and must be run with `use_cache=False`.

    Args:
        tokenizer: the base's tokenizer, or its processor where it reads images or sound.
        side: where the padding stands; an encoder-decoder's labels are always padded on the right.
    """

    def __init__(self, tokenizer: Any, family: str, side: Literal["right", "left"] = "right"):
        if side not in ("right", "left"):
            raise InputError(f"side: expected right or left, found {side!r}")
        self.processor = tokenizer if isinstance(tokenizer, Processor) else None
        ids = (getattr(tokenizer, "pad_token_id", None), getattr(tokenizer, "eos_token_id", None), 0)
        self.pad_id: int = next(one for one in ids if isinstance(one, int))
        self.family, self.side = family, side

    def __call__(self, features: Sequence[Features]) -> dict[str, Tensor]:
        """One batch. Raises `DataError` where some rows of a multilabel or regression batch have no label."""
        if self.processor is not None:
            return self._seen(features, self.processor)
        rows = [row["input_ids"] for row in features]
        batch = {"input_ids": self._pad(rows, self.pad_id)}
        if "position_ids" in features[0]:
            batch["position_ids"] = self._pad([row["position_ids"] for row in features], 0)
        else:
            mask = self._pad([[1] * len(row) for row in rows], 0)
            batch["attention_mask"] = mask
            if self.family == "causal":
                batch["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        if "token_type_ids" in features[0]:
            batch["token_type_ids"] = self._pad([row["token_type_ids"] for row in features], 0)
        if "target" in features[0]:
            batch["target"] = self._pad([row["target"] for row in features], 0).bool()
        labels = self._labels(features)
        if labels is not None:
            batch["labels"] = labels
        if "index" in features[0]:
            batch["index"] = torch.tensor([row["index"] for row in features])
        return batch

    def _seen(self, features: Sequence[Features], processor: Processor) -> dict[str, Tensor]:
        """Images or sound, which are all of one size; every position is real."""
        key = processor.modality.key
        batch = {key: torch.stack([torch.from_numpy(row[key]) for row in features])}
        batch["attention_mask"] = torch.ones(len(features), processor.positions, dtype=torch.long)
        labels = self._labels(features)
        if labels is not None:
            batch["labels"] = labels
        if "index" in features[0]:
            batch["index"] = torch.tensor([row["index"] for row in features])
        return batch

    def _labels(self, features: Sequence[Features]) -> Tensor | None:
        if any("labels" in row for row in features):
            side = "right" if self.family == "seq2seq" else self.side
            return self._pad([row.get("labels", []) for row in features], IGNORED, side)
        found: list[Any] = [row.get("label") for row in features]
        known = [label for label in found if label is not None]
        if not known:
            return None
        if isinstance(known[0], int):
            return torch.tensor([IGNORED if label is None else label for label in found])
        if len(known) < len(found):
            row = features[found.index(None)].get("index", found.index(None))
            raise DataError(f"row {row} has no label, others of its batch have; score such rows apart")
        return torch.tensor(found, dtype=torch.float32)

    def _pad(self, rows: Sequence[Sequence[int]], value: int, side: str | None = None) -> Tensor:
        width = max(1, *(len(row) for row in rows))
        fill = [[value] * (width - len(row)) for row in rows]
        if (side or self.side) == "right":
            return torch.tensor([[*row, *rest] for row, rest in zip(rows, fill, strict=True)], dtype=torch.long)
        return torch.tensor([[*rest, *row] for row, rest in zip(rows, fill, strict=True)], dtype=torch.long)
