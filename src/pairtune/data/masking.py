"""Which tokens of a text are hidden from an encoder, so that it learns to say them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pairtune.data.forms import IGNORED
from pairtune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED, ANOTHER = 0.8, 0.1  # of the chosen tokens: replaced by the mask, by any token; the rest stays as it is


class Masker:
    """Chosen tokens replaced, as BERT does it (Devlin et al., arXiv 1810.04805): 80 % by the mask token, 10 % by any
    other, 10 % left as they are; all chosen ones are to be said.

    What is chosen depends on the seed, the row and the number of the pass alone, not on batches, processes or where a
    run was resumed; so a row is hidden differently in every pass (as in RoBERTa, arXiv 1907.11692). Each token that is
    not special is chosen by itself, and one at least in every row that has any.

    Args:
        rows: the number of rows of the base's embeddings: ids below it may stand in for a token.
        probability: with which a token is chosen.

    Raises `InputError` for a tokenizer without a mask token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rows: int, probability: float, seed: int):
        if not isinstance(tokenizer.mask_token_id, int):
            raise InputError("the base's tokenizer has no mask token, so that nothing can be hidden from the encoder")
        self.mask_id, self.probability, self.seed = tokenizer.mask_token_id, probability, seed
        special = np.zeros(rows, dtype=bool)
        special[[one for one in tokenizer.all_special_ids if one < rows]] = True
        known = np.zeros(rows, dtype=bool)
        known[[one for one in tokenizer.get_vocab().values() if one < rows]] = True
        self._special, self._others = special, (known & ~special).nonzero()[0]

    def __call__(self, features: Sequence[dict[str, Any]], visit: int) -> list[dict[str, Any]]:
        """The features with `input_ids` partly hidden and `labels`: the chosen tokens' ids, −100 elsewhere.

        Args:
            features: with `index`, the row's number.
            visit: the number of the pass, from 0.
        """
        return [{**row, **self._hidden(row["input_ids"], [self.seed, visit, row["index"]])} for row in features]

    def _hidden(self, ids: Sequence[int], stream: list[int]) -> dict[str, list[int]]:
        generator = np.random.default_rng(stream)
        tokens = np.asarray(ids)
        score = generator.random(len(tokens))
        score[self._special[tokens]] = np.inf
        chosen = score < self.probability
        if not chosen.any() and np.isfinite(score).any():
            chosen[score.argmin()] = True
        way = generator.random(len(tokens))
        others = self._others[generator.integers(0, len(self._others), len(tokens))]
        shown = np.where(way < MASKED, self.mask_id, np.where(way < MASKED + ANOTHER, others, tokens))
        return {
            "input_ids": np.where(chosen, shown, tokens).tolist(),
            "labels": np.where(chosen, tokens, IGNORED).tolist(),
        }
