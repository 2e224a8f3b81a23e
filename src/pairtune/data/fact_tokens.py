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
    """Facts and prompts as one tokenizer writes them.

    Args:
        most: the most tokens that the model reads and writes together.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, most: int):
        self.tokens, self.most = Tokens(tokenizer), most

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each prompt, with what the tokenizer puts before a text.

        Raises `DataError` for one that has no tokens, or so many that no answer fits behind it.
        """
        found = self._begun(texts)
        for text, ids in zip(texts, found, strict=True):
            if not ids:
                raise DataError(f"the prompt {text!r} has no tokens")
            if len(ids) >= self.most:
                said = f"{text[:60]!r} ... has {len(ids)} tokens"
                raise DataError(f"the prompt {said}, the model reads and writes {self.most} together; shorten it")
        return found

    def pairs(self, facts: Sequence[Fact]) -> list[tuple[list[int], list[int]]]:
        """(prompt, target with its end token) of each fact.

        Raises `DataError` naming the fact whose target the tokenizer cannot write back: an unknown word, or a merge
        across the border of prompt and target.
        """
        prompts = self.prompts([fact.prompt for fact in facts])
        joined = self._begun([f"{fact.prompt} {fact.target}" for fact in facts])
        alone = self.tokens.plain([f" {fact.target}" for fact in facts])
        found = []
        for fact, prompt, whole, target in zip(facts, prompts, joined, alone, strict=True):
            # A tokenizer that marks the beginning of a text gives other ids to the target alone than behind a prompt.
            ids = whole[len(prompt) :] if whole[: len(prompt)] == prompt else target
            self._check(fact, ids)
            found.append((prompt, self.tokens.ended(ids)))
            if len(prompt) + len(found[-1][1]) > self.most:
                count = len(prompt) + len(found[-1][1])
                raise DataError(f"{fact.place}: prompt and target have {count} tokens, the model reads {self.most}")
        return found

    def _begun(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.tokens.start + self.tokens.bare(ids) for ids in self.tokens.plain(texts)]

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
