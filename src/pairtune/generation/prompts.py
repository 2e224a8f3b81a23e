"""Prompts to token ids, laid out as the pair was tuned on them.

A conversation is written by the tokenizer's chat template, up to where the assistant is to speak. A text goes

    as tuned    where the pair's task has a text and a completion: text, separator (see `data/verbalise.py`)
    as a chat   else, where the tokenizer has a chat template: as what a user says
    as it is    else, and where `raw` is asked for

with the tokenizer's start tokens before it; an encoder-decoder reads a text as its tokenizer makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pairtune.data.tokens import Tokens
from pairtune.data.verbalise import SEPARATOR, join
from pairtune.errors import DataError, InputError, MissingView

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

Prompt = str | Sequence[str] | Sequence[Mapping[str, Any]]  # a text, several columns of one, or a conversation


class Prompts:
    """How one pair reads prompts.

    Attributes:
        layout: "as tuned", "chat" or "plain": how a text is laid out.
        limit: the most positions that the base has; None where it has no such limit.

    Raises `MissingView` for a model that does not write texts.
    """

    def __init__(self, pair: Pair, raw: bool = False):
        if "tokens" not in pair.views:
            what = "is an encoder" if pair.base.family == "encoder" else "has a head for labels"
            raise MissingView(
                f"{pair.base.source} {what}, which has nothing to write with; take a causal language model or an "
                "encoder-decoder"
            )
        task = (pair.card.task or {}) if pair.card else {}
        self._family, self.tokens = pair.base.family, Tokens(pair.tokenizer)
        self._separator: str = task.get("separator", SEPARATOR)
        chat = bool(pair.tokenizer.chat_template) and (not task or task.get("chat", False))
        self.layout = "plain"
        if self._family == "causal" and not raw:
            self.layout = "as tuned" if task.get("label") else "chat" if chat else "plain"
        config = pair.base.model.config.get_text_config()
        self.limit: int | None = getattr(config, "max_position_embeddings", None)

    def ids(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt.

        Raises `DataError` for one without tokens, too long for the base, or that the chat template refuses;
        `InputError` for a conversation where there is no template.
        """
        if not isinstance(prompt, str) and prompt and isinstance(prompt[0], Mapping):
            found = self._chat([dict(turn) for turn in prompt])  # type: ignore[arg-type]
        else:
            text = prompt if isinstance(prompt, str) else join([str(part) for part in prompt], self._separator)
            found = self._text(text)
        if not found:
            raise DataError("the prompt has no tokens, and the tokenizer puts none before a text")
        if self.limit is not None and len(found) >= self.limit:
            raise DataError(
                f"the prompt has {len(found)} tokens, and {self.limit} positions are all that the base has, with what "
                "is to be written; shorten it"
            )
        return found

    def room(self, ids: Sequence[int], wanted: int) -> int:
        """How many of the wanted tokens fit behind a prompt; an encoder-decoder's answer has positions of its own."""
        if self.limit is None:
            return wanted
        return min(wanted, self.limit - (len(ids) if self._family == "causal" else 1))

    def _text(self, text: str) -> list[int]:
        if self._family == "seq2seq":
            return list(self.tokens.tokenizer(text, verbose=False)["input_ids"])
        if self.layout == "chat":
            return self._chat([{"role": "user", "content": text}])
        parts = [text, self._separator] if self.layout == "as tuned" else [text]
        body, *between = self.tokens.plain(parts)
        return [*self.tokens.start, *self.tokens.bare(body), *(between[0] if between else [])]

    def _chat(self, turns: list[dict[str, Any]]) -> list[int]:
        tokenizer = self.tokens.tokenizer
        if self._family != "causal" or not tokenizer.chat_template:
            raise InputError(
                "conversations are written by a chat template, which this base does not have; give it texts"
            )
        turns = turns[:-1] if turns[-1].get("role") == "assistant" else turns
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program; whatever it raises is about this conversation
            raise DataError(f"the chat template refuses this conversation: {error}") from None
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
