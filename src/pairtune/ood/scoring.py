"""Score texts with detectors: streams of any length in constant memory, in the order in which they came."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pairtune import registry
from pairtune.data.buckets import batches
from pairtune.data.collate import Collator
from pairtune.data.tokens import Tokens
from pairtune.errors import MissingView
from pairtune.ood.metrics import Separation, separation

if TYPE_CHECKING:
    from pairtune.data.split import Split
    from pairtune.data.task import Task
    from pairtune.ood import Detector
    from pairtune.pair.pair import Pair

AT_ONCE = 2048  # texts that are sorted by length together
TOKENS_A_BATCH = 8192
DEFAULT = ("log-ratio:sum", "log-ratio:token", "length")


@dataclass(frozen=True)
class Score:
    """One text's scores by detector (higher = more out of distribution) and its number of tokens."""

    scores: dict[str, float]
    tokens: int


def make_detectors(names: Sequence[str]) -> dict[str, Detector]:
    """Detectors by the names that people type; `log-ratio:token` is short for its setting `normalize`."""
    made = {}
    for name in names:
        stem, _, form = name.partition(":")
        made[name] = registry.build("ood", stem, {"normalize": form} if form else {})
    return made


class Scorer:
    """A pair and some detectors, ready to score texts.

    Args:
        names: detectors, by default the log ratio in both its forms, and length alone.
        max_length: the most tokens of a text, the rest is cut; None: what the base takes.

    Raises `MissingView` where a detector needs a view that the pair does not have.
    """

    def __init__(self, pair: Pair, names: Sequence[str] = DEFAULT, max_length: int | None = None):
        self.pair, self.detectors = pair, make_detectors(names)
        lacking = {name: d.needs - pair.views for name, d in self.detectors.items() if d.needs - pair.views}
        if lacking:
            name, views = next(iter(lacking.items()))
            raise MissingView(
                f"{name} needs the {' and '.join(sorted(views))} view, which a pair with a {pair.base.family} base does"
                f" not have; this pair has {', '.join(sorted(pair.views))}"
            )
        limit = getattr(pair.base.model.config.get_text_config(), "max_position_embeddings", None)
        self.max_length = max_length or limit or 512
        self._tokens = Tokens(pair.tokenizer)
        self._collate = Collator(pair.tokenizer, pair.base.family)

    def stream(self, texts: Iterable[str]) -> Iterator[Score]:
        """The score of every text, in order. A text without tokens scores 0."""
        source = iter(texts)
        while chunk := list(islice(source, AT_ONCE)):
            yield from self._chunk(chunk)

    def table(self, texts: Iterable[str]) -> dict[str, np.ndarray]:
        """Detector → [N] scores."""
        found = list(self.stream(texts))
        return {name: np.array([one.scores[name] for one in found]) for name in self.detectors}

    def _chunk(self, texts: list[str]) -> list[Score]:
        ids = [self._encode(text) for text in texts]
        lengths = [len(one) for one in ids]
        plan, order = batches(lengths, TOKENS_A_BATCH)
        flat: list[dict[str, float]] = []
        for rows in plan:
            flat += self._batch([ids[i] for i in rows])
        return [Score(flat[place], lengths[i]) for i, place in enumerate(order)]

    def _encode(self, text: str) -> list[int]:
        if self.pair.base.family == "encoder":
            return self._tokens.inputs([[text]], self.max_length)[0]["input_ids"]
        ids = [*self._tokens.start, *self._tokens.plain([text])[0]]
        return ids[: self.max_length] or [self._collate.pad_id]

    @torch.inference_mode()
    def _batch(self, rows: list[list[int]]) -> list[dict[str, float]]:
        batch: dict[str, Any] = self._collate([{"input_ids": row} for row in rows])
        batch = {name: tensor.to(self.pair.base.device) for name, tensor in batch.items()}
        if self.pair.base.family == "seq2seq":
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        columns = {name: detector.score(self.pair, batch).tolist() for name, detector in self.detectors.items()}
        return [{name: column[i] for name, column in columns.items()} for i in range(len(rows))]


def texts_of(task: Task, split: Split) -> list[str]:
    """The texts of a split as a language model reads them."""
    return [task.prompt(row) for row in split]


def separate(
    pair: Pair, task: Task, names: Sequence[str] = DEFAULT, resamples: int = 300
) -> dict[str, dict[str, Separation]]:
    """OOD split → detector → how well its score separates the task's test split from that split."""
    scorer = Scorer(pair, names)
    inside = scorer.table(texts_of(task, task.split("test")))
    found = {}
    for name, split in task.splits.items():
        if name.startswith("ood/"):
            outside = scorer.table(texts_of(task, split))
            found[name] = {d: separation(inside[d], outside[d], resamples) for d in scorer.detectors}
    return found


def score(pair: Pair, texts: Iterable[str], detector: str = "log-ratio") -> list[float]:
    """The score of each text: higher means further from what the variant was tuned on."""
    return [one.scores[detector] for one in Scorer(pair, [detector]).stream(texts)]
