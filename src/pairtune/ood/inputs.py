"""What is scored, as token ids: texts, questions with or without an answer, conversations.

A row of ids knows which of its tokens are the question's, the answer's and the template's (start and end token, the
separator between the two, a chat template's words and all turns that are neither the user's nor the last answer). The
template is context and is never summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pairtune.data.media import Media
from pairtune.data.verbalise import join
from pairtune.errors import DataError, InputError
from pairtune.ood.evidence import ANSWER, QUESTION

if TYPE_CHECKING:
    from pairtune.data.tokens import Tokens

Span = tuple[int, int] | None


@dataclass(frozen=True)
class Input:
    """One thing to score.

    Attributes:
        texts: its text columns (two for a task about pairs of texts), or one image or recording.
        answer: the answer, where there is one.
        messages: a conversation instead, `role` and `content` of every turn; an assistant's last turn is the answer.
    """

    texts: tuple[Any, ...] = ()
    answer: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None

    @classmethod
    def of(cls, given: str | Sequence[Any] | Media | Input) -> Input:
        """From a text, an image or recording, a pair (question, answer or None), or a list of messages.

        Raises `DataError` for anything else.
        """
        if isinstance(given, Input):
            return given
        if isinstance(given, Media):
            return cls((given,))
        if isinstance(given, str):
            return cls((given,))
        parts = list(given) if isinstance(given, list | tuple) else []
        if parts and all(isinstance(part, dict) and "role" in part and "content" in part for part in parts):
            return cls(messages=tuple(parts))
        if len(parts) == 2 and isinstance(parts[0], str) and (parts[1] is None or isinstance(parts[1], str)):
            return cls((parts[0],), parts[1])
        raise DataError(f"expected a text, a pair (question, answer) or a list of messages, found {str(given)[:80]!r}")


@dataclass
class Row:
    """Token ids [T], the mark of each (0 template, 1 question, 2 answer), and its place in the text it comes from."""

    ids: list[int]
    parts: list[int]
    spans: list[Span]
    extra: dict[str, list[int]] = field(default_factory=dict)

    def cut_left(self, room: int, keep: int) -> Row:
        """At most `room` tokens: the first `keep` (start tokens) and the end of the rest."""
        if len(self.ids) <= room:
            return self
        drop = len(self.ids) - room
        chosen = [*range(keep), *range(keep + drop, len(self.ids))]
        return Row([self.ids[i] for i in chosen], [self.parts[i] for i in chosen], [self.spans[i] for i in chosen])

    def __add__(self, other: Row) -> Row:
        return Row(self.ids + other.ids, self.parts + other.parts, self.spans + other.spans)


class Reader:
    """Inputs to rows for one tokenizer.

    Args:
        max_length: the most tokens of a row. A question alone is cut on the right, in front of an answer on the left.
        separator: what stands between question and answer, and between two text columns.
    """

    def __init__(self, tokens: Tokens, family: str, max_length: int, separator: str):
        self.tokens, self.family, self.max_length, self.separator = tokens, family, max_length, separator
        self._between = tokens.plain([separator])[0] if family != "encoder" else []

    def text(self, one: Input) -> str:
        """The text of an input as people read it."""
        if one.messages is not None:
            return "\n".join(str(turn["content"]) for turn in self._question_turns(one))
        return join(one.texts, self.separator)

    def questions(self, inputs: Sequence[Input]) -> list[Row]:
        """A row an input: the start tokens and the question."""
        if self.family != "causal":
            return self._sources(inputs)
        found = self._plain([self.text(one) for one in inputs if one.messages is None])
        rows = iter(found)
        return [self._question(next(rows)) if one.messages is None else self._chat(one) for one in inputs]

    def _question(self, row: Row) -> Row:
        row = self._start() + row
        return Row(row.ids[: self.max_length], row.parts[: self.max_length], row.spans[: self.max_length])

    def prompts(self, inputs: Sequence[Input], room: int) -> list[Row]:
        """A row an input that ends where its answer begins, at most `room` tokens, cut on the left."""
        if self.family != "causal":
            return self._sources(inputs) if inputs else []
        rows = iter(self._plain([self.text(one) for one in inputs if one.messages is None]))
        between = Row(self._between, [0] * len(self._between), [None] * len(self._between))
        keep = len(self.tokens.start)
        whole = [
            self._start() + next(rows) + between if one.messages is None else self._chat(one, whole=True)
            for one in inputs
        ]
        return [row.cut_left(room, keep) for row in whole]

    def answer(self, one: Input) -> Row | None:
        """The given answer's tokens, as they follow the separator; None where none is given."""
        if one.messages is not None:
            last = one.messages[-1]
            text = str(last["content"]) if last["role"] == "assistant" else None
            lead = ""
        else:
            text, lead = one.answer, self.separator if self.family == "causal" else ""
        if text is None:
            return None
        ids, spans = self._with_spans(lead + text)
        shared = 0
        while lead and shared < min(len(ids), len(self._between)) and ids[shared] == self._between[shared]:
            shared += 1
        moved: list[Span] = [(max(0, a - len(lead)), max(0, b - len(lead))) for a, b in spans[shared:]]
        return self._checked(Row(ids[shared:], [ANSWER] * (len(ids) - shared), moved))

    def written(self, ids: list[int]) -> tuple[str, Row]:
        """An answer that the model wrote: its text and its tokens."""
        tokenizer = self.tokens.tokenizer
        ends = [len(tokenizer.decode(ids[:i], skip_special_tokens=True)) for i in range(len(ids) + 1)]
        spans: list[Span] = list(pairwise(ends))
        return tokenizer.decode(ids, skip_special_tokens=True), Row(ids, [ANSWER] * len(ids), spans)

    def joined(self, one: Input, answer: Row) -> Row:
        """Question and answer in one row; what is too long loses the beginning of the question."""
        prompt = self.prompts([one], max(self.max_length - len(answer.ids), len(self.tokens.start)))[0]
        return prompt + answer

    def alone(self, answer: Row) -> Row:
        """The answer as a text of its own."""
        return self._start() + answer

    def _checked(self, answer: Row) -> Row:
        most = self.max_length - len(self.tokens.start)
        if len(answer.ids) > most:
            raise DataError(f"the answer has {len(answer.ids)} tokens, {most} fit, and it is never cut; leave it out")
        return answer

    def _start(self) -> Row:
        ids = self.tokens.start
        return Row(list(ids), [0] * len(ids), [None] * len(ids))

    def _plain(self, texts: list[str]) -> list[Row]:
        if not texts:
            return []
        offsets = self.tokens.tokenizer.is_fast
        every = self.tokens.tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, return_offsets_mapping=offsets, verbose=False
        )
        none: list[Any] = [[None] * len(ids) for ids in every["input_ids"]]
        found = every["offset_mapping"] if offsets else none
        return [Row(ids, [QUESTION] * len(ids), sp) for ids, sp in zip(every["input_ids"], found, strict=True)]

    def _with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        row = self._plain([text])[0]
        return row.ids, [span or (0, 0) for span in row.spans]

    def _sources(self, inputs: Sequence[Input]) -> list[Row]:
        """What an encoder reads, special tokens included."""
        if any(one.messages is not None for one in inputs):
            raise InputError("conversations are scored on decoder-only models; give this pair texts")
        pairs = self.family == "encoder" and len({len(one.texts) for one in inputs}) == 1
        columns = [list(one.texts) if pairs else [self.text(one)] for one in inputs]
        found = []
        for made in self.tokens.inputs(columns, self.max_length):
            ids = list(made["input_ids"])
            extra = {"token_type_ids": list(made["token_type_ids"])} if "token_type_ids" in made else {}
            if self.family == "seq2seq":
                extra = {}
            found.append(Row(ids, [QUESTION] * len(ids), [None] * len(ids), extra))
        return found

    def _question_turns(self, one: Input) -> list[dict[str, Any]]:
        turns = list(one.messages or ())
        return turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns

    def _chat(self, one: Input, whole: bool = False) -> Row:
        """The conversation up to its answer, by the tokenizer's chat template; the user's words are the question."""
        tokenizer, turns = self.tokens.tokenizer, self._question_turns(one)
        if not tokenizer.chat_template:
            raise InputError("the tokenizer has no chat template, so that conversations cannot be written as text")
        if not any(turn["role"] == "user" for turn in turns):
            raise DataError("the conversation has no turn of the user")
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        said, at = [], 0
        for turn in turns:
            content = str(turn["content"]).strip()
            start = text.find(content, at)
            if start < 0:
                raise DataError("the chat template rewrites what is said, so that its own words cannot be told apart")
            at = start + len(content)
            if turn["role"] == "user":
                said.append((start, at))
        ids, spans = self._with_spans(text)
        parts = [QUESTION if a < b and any(s <= a and b <= e for s, e in said) else 0 for a, b in spans]
        places: list[Span] = list(_in_question(spans, parts, said))
        row = Row(ids, parts, places)
        return row if whole else row.cut_left(self.max_length, len(self.tokens.start))


def _in_question(spans: list[tuple[int, int]], parts: list[int], said: list[tuple[int, int]]):
    """Places in the user's turns joined by line ends, as `Reader.text` gives a conversation of the user alone."""
    for (a, b), part in zip(spans, parts, strict=True):
        if not part:
            yield None
            continue
        before = 0
        for start, end in said:
            if start <= a and b <= end:
                yield a - start + before, b - start + before
                break
            before += end - start + 1
