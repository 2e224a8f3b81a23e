"""Claims as one pair reads them: prompts up to the verdict slot, verdicts as ids, and the probability of each.

    P(v | c) = softmax over V of (1 / |v|) log p(v | c)        |v|: tokens of the verdict v

Whole verdicts are scored, per token, so that a long one is not improbable for its length alone. The slot is the last
position before the first token by which verdicts differ; activations are read there, from the same ids on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pairtune.data.buckets import batches, tokens_a_batch
from pairtune.data.collate import Collator
from pairtune.data.verbalise import verbalise
from pairtune.errors import DataError, InputError
from pairtune.generation.prompts import Prompts
from pairtune.generation.steering import Steering
from pairtune.generation.vectors import steerable
from pairtune.pair.label_ranking import LabelRanker
from pairtune.pair.views import hidden_states

if TYPE_CHECKING:
    from pairtune.data.split import Split
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair


class Reading:
    """A classification task as one pair reads it.

    Attributes:
        shared: the ids that all verdicts begin with; they belong to the prompt. verdicts: the rest of each.
        slots: the numbers by which `hidden_states` knows what leaves each steerable block.

    Raises `MissingView` for a model that writes nothing, `InputError` for verdicts that cannot be told apart.
    """

    def __init__(self, pair: Pair, task: Task):
        self.pair, self.task, self.prompts = pair, task, Prompts(pair)
        self._causal = pair.base.family == "causal"
        self._between = self.prompts.tokens.plain([task.separator])[0] if self._causal else []
        self.shared, self.verdicts = self._split_off(self._verdict_ids())
        inside = {id(block) for block in steerable(pair.base)}
        self.slots = [i for i, (_, block) in enumerate(pair.base.blocks, 1) if id(block) in inside]
        self._collate = Collator(pair.tokenizer, pair.base.family)

    def rows(self, split: Split, shots: Sequence[Mapping[str, Any]] = ()) -> list[list[int]]:
        """The ids of every row's prompt, up to the verdict slot; before it as many of the examples as fit."""
        return [self._row(split, i, shots) for i in range(len(split))]

    def targets(self, split: Split) -> np.ndarray:
        """[N] the index of each row's verdict. Raises `DataError` for a row without one."""
        found = [self.task.target(row) for row in split]
        if None in found:
            raise split.error(found.index(None), "this row has no verdict of the task")
        return np.array(found)

    @torch.inference_mode()
    def probabilities(self, rows: Sequence[Sequence[int]], steering: Steering | None = None) -> np.ndarray:
        """[N, V] P(v | c) of the side that is on; `steering` acts at the slot and on the verdict's tokens."""
        ranker = LabelRanker(self.pair, self.verdicts, *([steering.answering] if steering else []))
        lengths = torch.tensor([len(ids) for ids in self.verdicts], dtype=torch.float64)
        tail = int(lengths.sum())
        plan, order = batches([len(ids) + tail for ids in rows], tokens_a_batch(self.pair.base.device))
        scores = torch.cat([ranker.rank([rows[i] for i in numbers]) for numbers in plan])[order].double().cpu()
        return (scores / lengths).softmax(-1).numpy()

    @torch.inference_mode()
    def activations(self, rows: Sequence[Sequence[int]], said: Sequence[Sequence[int]] | None = None) -> Tensor:
        """[N, L, d] float32 of the side that is on: what leaves each steerable block at the verdict slot.

        Args:
            said: ids that follow each row; then it is read at their last one.
        """
        written = [list(ids) for ids in said] if said is not None else [[] for _ in rows]
        texts = [[*ids, *more] for ids, more in zip(rows, written, strict=True)] if self._causal else rows
        plan, order = batches([len(ids) for ids in texts], tokens_a_batch(self.pair.base.device))
        found = []
        for numbers in plan:
            batch = self._batch([texts[i] for i in numbers], [written[i] for i in numbers])
            hidden = hidden_states(self.pair, batch, self.slots)
            ends = batch["attention_mask"].sum(-1) if self._causal else [1 + len(written[i]) for i in numbers]
            last = torch.as_tensor(ends) - 1
            at = torch.arange(len(numbers))
            found.append(torch.stack([one[at, last].float().cpu() for one in hidden.values()], 1))
        return torch.cat(found)[order]

    def _batch(self, rows: list[Sequence[int]], written: list[list[int]]) -> dict[str, Any]:
        made = self._collate([{"input_ids": list(ids)} for ids in rows])
        if not self._causal:
            model: Any = self.pair.base.model
            begun = [torch.tensor([model.config.decoder_start_token_id, *ids]) for ids in written]
            made["decoder_input_ids"] = pad_sequence(begun, batch_first=True)
        return {name: tensor.to(self.pair.base.device) for name, tensor in made.items()}

    def _row(self, split: Split, i: int, shots: Sequence[Mapping[str, Any]]) -> list[int]:
        for first in range(len(shots) + 1):
            try:
                return self._prompt(split[i], shots[first:])
            except DataError as error:
                if first == len(shots):
                    raise split.error(i, str(error)) from None
        raise AssertionError

    def _prompt(self, row: Mapping[str, Any], shots: Sequence[Mapping[str, Any]]) -> list[int]:
        """A row behind examples. Raises `DataError` where prompt and verdict do not fit into the base's positions."""
        text = self.task.prompt(row)
        if self.prompts.layout == "chat":
            turns: list[dict[str, str]] = []
            for shot in shots:
                turns += [{"role": "user", "content": self.task.prompt(shot)}]
                turns += [{"role": "assistant", "content": verbalise(self.task.labels)[self.task.target(shot)]}]
            ids = self.prompts.ids([*turns, {"role": "user", "content": text}])
        elif not self._causal:
            ids = self.prompts.ids(text)
        else:
            tokens = self.prompts.tokens
            parts = [text, *(part for shot in shots for part in (self.task.prompt(shot), "\n\n"))]
            body, *told = [tokens.bare(ids) for ids in tokens.plain(parts)]
            examples: list[int] = []
            for number, shot in enumerate(shots):
                verdict = [*self.shared, *self.verdicts[self.task.target(shot)]]
                examples += [*told[2 * number], *self._between, *verdict, *told[2 * number + 1]]
            ids = [*tokens.start, *examples, *body, *self._between]
        ids = [*ids, *self.shared] if self._causal else ids
        longest = max(map(len, self.verdicts)) if self._causal else 0
        if self.prompts.limit is not None and len(ids) + longest > self.prompts.limit:
            raise DataError(
                f"prompt and verdict have {len(ids) + longest} tokens, the base has {self.prompts.limit} positions"
            )
        return ids

    def _verdict_ids(self) -> list[list[int]]:
        tokens, said = self.prompts.tokens, verbalise(self.task.labels)
        if not self._causal:
            return [[one for one in ids if one != tokens.end] for ids in tokens.targets(said)]
        if self.prompts.layout == "chat":
            return tokens.plain(said)
        behind = tokens.plain([self.task.separator + one for one in said])
        lead = len(self._between)
        cut = all(ids[:lead] == self._between for ids in behind)  # else the separator melts into the first word
        return [ids[lead:] for ids in behind] if cut else tokens.plain(said)

    def _split_off(self, ids: list[list[int]]) -> tuple[list[int], list[list[int]]]:
        for one, other in ((a, b) for a in range(len(ids)) for b in range(len(ids)) if a != b):
            if ids[other][: len(ids[one])] == ids[one]:
                names = self.task.labels
                raise InputError(
                    f"the verdict {names[one]!r} is the beginning of {names[other]!r}, so that a model which says the "
                    "first may mean either; rename one"
                )
        shared = 0
        while self._causal and all(len(one) > shared + 1 and one[shared] == ids[0][shared] for one in ids):
            shared += 1
        return ids[0][:shared], [one[shared:] for one in ids]
