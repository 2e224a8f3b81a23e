"""Token ids of facts: the prompt as a model reads it, and the target that it shall write, with its end.

A target follows its prompt after a space and ends with the end token, so that a model that has learnt it stops there:
free generation would go on otherwise. The prompt's ids are those of the prompt alone, as generation begins with them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pairtune.data.tokens import Tokens
from pairtune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pairtune.data.facts import Fact


class FactTokens:
    """Facts and prompts as one tokenizer writes them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokens = Tokens(tokenizer)

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each prompt, with what the tokenizer puts before a text. `DataError` for one without tokens."""
        found = [self.tokens.start + self.tokens.bare(ids) for ids in self.tokens.plain(texts)]
        for text, ids in zip(texts, found, strict=True):
            if not ids:
                raise DataError(f"the prompt {text!r} has no tokens")
        return found

    def pairs(self, facts: Sequence[Fact]) -> list[tuple[list[int], list[int]]]:
        """(prompt, target with its end token) of each fact.

        Raises `DataError` naming the fact whose target the tokenizer cannot write back: an unknown word, or a merge
        across the border of prompt and target.
        """
        prompts = self.prompts([fact.prompt for fact in facts])
        joined = self.prompts([f"{fact.prompt} {fact.target}" for fact in facts])
        alone = self.tokens.plain([f" {fact.target}" for fact in facts])
        found = []
        for fact, prompt, whole, target in zip(facts, prompts, joined, alone, strict=True):
            # A tokenizer that marks the beginning of a text gives other ids to the target alone than behind a prompt.
            ids = whole[len(prompt) :] if whole[: len(prompt)] == prompt else target
            self._check(fact, ids)
            found.append((prompt, self.tokens.ended(ids)))
        return found

    def _check(self, fact: Fact, ids: list[int]) -> None:
        """The ids that are learnt must say the target, spaces and case aside."""
        said = self.tokens.tokenizer.decode(ids)
        if _bare(said) != _bare(fact.target):
            raise DataError(
                f"{fact.place or 'a fact'}: the tokenizer writes the target {fact.target!r} as {said.strip()!r}, which "
                "the model would learn in its place; write it in words that the tokenizer has"
            )


def _bare(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
