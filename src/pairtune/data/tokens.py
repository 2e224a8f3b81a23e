"""Token ids of texts and of what stands around them, the same way for training, scoring and generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pairtune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Tokens:
    """A tokenizer, and the ids that it puts in front of a text.

    Attributes:
        start: what the tokenizer itself adds before a text (a start token; nothing for some models).
        end: the end-of-text id.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer: Any = tokenizer
        self.start = self._start()

    @property
    def end(self) -> int:
        """The end-of-text id. Raises `InputError` where the tokenizer has none."""
        if self.tokenizer.eos_token_id is None:
            raise InputError("the tokenizer has no end-of-text token, so that a model cannot learn where a text ends")
        return self.tokenizer.eos_token_id

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, nothing added."""
        if not texts:
            return []
        return self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)[
            "input_ids"
        ]

    def bare(self, ids: list[int]) -> list[int]:
        """The ids without the start ids, where the text itself spells them: they are added once."""
        return ids[len(self.start) :] if self.start and ids[: len(self.start)] == self.start else ids

    def ended(self, ids: list[int]) -> list[int]:
        """The ids with the end-of-text id behind them, once."""
        return ids if ids and ids[-1] == self.end else [*ids, self.end]

    def inputs(self, texts: Sequence[Sequence[str]], max_length: int) -> list[dict[str, Any]]:
        """What an encoder reads of texts or pairs of texts, special tokens and token types as its tokenizer makes them.

        A longer one is cut on the right (of a pair, the longer text first) and has `cut` set.
        """
        columns = [list(column) for column in zip(*texts, strict=True)]
        every = self.tokenizer(*columns, return_attention_mask=False, verbose=False)
        rows = [{key: every[key][i] for key in every} for i in range(len(texts))]
        for i, row in enumerate(rows):
            if len(row["input_ids"]) > max_length:
                cut = self.tokenizer(
                    *texts[i], truncation=True, max_length=max_length, return_attention_mask=False, verbose=False
                )
                rows[i] = {**{key: list(cut[key]) for key in cut}, "cut": True}
        return rows

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids that an encoder-decoder writes, its special tokens and one end token included."""
        if not texts:
            return []
        every = self.tokenizer(text_target=list(texts), return_attention_mask=False, verbose=False)["input_ids"]
        return [self.ended(ids) for ids in every]

    def _start(self) -> list[int]:
        probe = "a"
        alone = self.tokenizer(probe, add_special_tokens=False, verbose=False)["input_ids"]
        whole = list(self.tokenizer(probe, verbose=False)["input_ids"])
        for at in range(len(whole) - len(alone) + 1):
            if whole[at : at + len(alone)] == list(alone):
                return whole[:at]
        return []
