"""Inputs to the batches that detectors read: question, answer, label words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from pairtune.data.buckets import WRITING, batches, tokens_a_batch
from pairtune.data.collate import Collator
from pairtune.data.tokens import Tokens
from pairtune.data.verbalise import SEPARATOR
from pairtune.errors import DataError
from pairtune.ood.forms import classes_of, task_record
from pairtune.ood.inputs import Input, Reader, Row
from pairtune.pair.greedy import greedy

if TYPE_CHECKING:
    from pairtune.data.split import Split
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair

AT_ONCE = 2048  # inputs that are sorted by length together


@dataclass
class Rows:
    """One input's rows of tokens."""

    question: Row
    joined: Row | None = None
    alone: Row | None = None
    answer: str | None = None
    label_text: list[int] = field(default_factory=list)
    target: int = -1

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.ids) for row in (self.question, self.joined, self.alone) if row is not None)


class Batcher:
    """Tokenises, lets the variant write answers where one is wanted and not given, and collates.

    Args:
        needs: what the detectors need of a pair ("classes" asks for label words on a language model).
        answers: whether answers are wanted.
    """

    def __init__(
        self,
        pair: Pair,
        needs: frozenset[str],
        answers: bool,
        max_length: int | None,
        task: Task | None,
        new_tokens: int,
    ):
        limit = getattr(pair.base.model.config.get_text_config(), "max_position_embeddings", None)
        self.pair, self.answers = pair, answers
        self.max_length = max_length or limit or 512
        self.new_tokens = min(new_tokens, self.max_length // 2)
        known = task_record(pair, task)
        self.tokens = Tokens(pair.tokenizer)
        self.reader = Reader(self.tokens, pair.base.family, self.max_length, known.get("separator", SEPARATOR))
        self._collate = Collator(pair.tokenizer, pair.base.family)
        self._encoder: Any = None
        if "classes" in needs and pair.base.family != "encoder":
            self._make_ranker(known, classes_of(pair, task))

    def _make_ranker(self, known: Mapping[str, Any], labels: list[str]) -> None:
        from pairtune.data.encode import Encoder
        from pairtune.data.task import Task
        from pairtune.pair.label_ranking import LabelRanker

        task = Task("labels", "classification", ("text",), "label", labels, {}, known.get("separator", SEPARATOR))
        self._encoder = Encoder(task, self.pair.tokenizer, self.pair.base.family, self.max_length, chat=False)
        self._shared, words = self._encoder.ranking()
        self._ranker = LabelRanker(self.pair, words)

    def rows(self, inputs: Sequence[Input]) -> list[Rows]:
        """The rows of inputs, answers written where they are wanted."""
        found = [Rows(row) for row in self.reader.questions(inputs)]
        for one in found:
            if not one.question.ids:  # a text without tokens on a tokenizer without a start token
                one.question = Row([self._collate.pad_id], [0], [None])
        if self._encoder is not None:
            for one, given in zip(found, inputs, strict=True):
                one.label_text = self._label_text(self.reader.text(given))
        if self.answers:
            self._answer(inputs, found)
        return found

    def batch(self, rows: Sequence[Rows]) -> dict[str, Any]:
        """One batch on the pair's device."""
        made = self._tensors([row.question for row in rows])
        if not any(0 in row.question.parts[1:] for row in rows):
            # All that has a token before it counts, as the pair itself would say.
            made = {name: tensor for name, tensor in made.items() if name not in ("parts", "scored")}
        if self._encoder is not None:
            made |= {"ranker": self._ranker, "label_texts": [row.label_text for row in rows]}
        if self.answers:
            made["with_answer"] = self._with_answer(rows)
            if self.pair.base.family == "causal":
                made["answer"] = self._tensors([row.alone for row in rows if row.alone is not None])
        made["classes"] = torch.tensor([row.target for row in rows])
        return made

    def labelled(self, task: Task, split: Split) -> Iterator[dict[str, Any]]:
        """Batches of a split's rows with their classes; of a task with labels, the rows that have one."""
        classify = task.kind == "classification"
        chosen = (row for row in split if not classify or task.target(row) is not None)
        while chunk := list(islice(chosen, AT_ONCE)):
            rows = self.rows([Input.of(input_of(self.pair, task, row)) for row in chunk])
            for one, row in zip(rows, chunk, strict=True):
                one.target = task.target(row) if classify else -1
            for picked in batches([row.longest for row in rows], tokens_a_batch(self.pair.base.device))[0]:
                yield self.batch([rows[i] for i in picked])

    def _label_text(self, text: str) -> list[int]:
        features = self._encoder.many([{"text": text}], text_only=True)[0] if text else {"input_ids": []}
        ids = list(features["input_ids"]) or list(self.tokens.start)
        return [*ids, *self._shared] or [self._collate.pad_id]

    def _answer(self, inputs: Sequence[Input], rows: list[Rows]) -> None:
        """Put answers on the rows: given ones, and the variant's own where there is none."""
        answers = [self.reader.answer(one) for one in inputs]
        open_ones = [i for i, answer in enumerate(answers) if answer is None]
        prompts = self.reader.prompts([inputs[i] for i in open_ones], self.max_length - self.new_tokens)
        ids = [prompt.ids or [self._collate.pad_id] for prompt in prompts]
        plan, _ = batches([len(one) for one in ids], WRITING)
        written: dict[int, list[int]] = {}
        for picked in plan:
            found = greedy(self.pair, [ids[p] for p in picked], self.new_tokens, self._collate.pad_id)
            written.update(zip((open_ones[p] for p in picked), found, strict=True))
        for i, (one, row) in enumerate(zip(inputs, rows, strict=True)):
            answer = answers[i]
            if answer is None:
                row.answer, answer = self.reader.written(written[i])
            else:
                row.answer = one.answer if one.messages is None else str(one.messages[-1]["content"])
            row.alone = self.reader.alone(answer)
            if self.pair.base.family == "causal":
                row.joined = self.reader.joined(one, answer)
            else:
                row.joined = Row([*answer.ids, self.tokens.end], [*answer.parts, 0], [*answer.spans, None])

    def _with_answer(self, rows: Sequence[Rows]) -> dict[str, Any]:
        joined = [row.joined for row in rows if row.joined is not None]
        if self.pair.base.family == "causal":
            return self._tensors(joined)
        made = self._tensors([row.question for row in rows])
        targets = self._tensors(joined)
        real = targets["attention_mask"].bool()
        return {**made, "parts": targets["parts"], "labels": targets["input_ids"].masked_fill(~real, -100)} | {
            "scored": targets["parts"] > 0
        }

    def _tensors(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Ids, mask and marks [B, T]; `scored`, where some tokens are template."""
        some = [row if row.ids else Row([self._collate.pad_id], [0], [None]) for row in rows]
        made: dict[str, Any] = self._collate([{"input_ids": row.ids, **row.extra} for row in some])
        width = made["input_ids"].shape[1]
        made["parts"] = torch.tensor([row.parts + [0] * (width - len(row.parts)) for row in some])
        if self.pair.base.family == "causal":
            made["scored"] = made["parts"] > 0
        return {name: tensor.to(self.pair.base.device) for name, tensor in made.items()}


def input_of(pair: Pair, task: Task, row: Mapping[str, Any]) -> Input | str:
    """A task's row as an input: its text columns (joined on a language model), and its target where it is a text."""
    if task.modality != "text":
        return Input.of(row[task.text[0]])
    if task.is_chat:
        return Input.of(row[task.text[0]])
    for column in task.text:
        if not isinstance(row.get(column), str):
            raise DataError(f"{task.name}: a row has no text in the column {column!r}")
    columns = tuple(row[column] for column in task.text)
    if task.kind in ("lm", "seq2seq") and task.label is not None:
        target = task.target(row)
        return Input(columns, None if target is None else str(target))
    return columns[0] if len(columns) == 1 else Input(columns)
