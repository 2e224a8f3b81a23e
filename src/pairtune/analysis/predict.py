"""What the side of a pair that is on predicts for a split's rows, in their order."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pairtune.data.buckets import WRITING, batches, tokens_a_batch
from pairtune.data.collate import Collator
from pairtune.data.encode import Encoder
from pairtune.data.fitting import fitting
from pairtune.errors import InputError
from pairtune.pair.greedy import greedy
from pairtune.pair.label_ranking import LabelRanker
from pairtune.pair.pair import Pair, evaluating
from pairtune.pair.views import log_probs

if TYPE_CHECKING:
    from pairtune.data.split import Split
    from pairtune.data.task import Task

NEW_TOKENS = 128


@dataclass
class Reader:
    """A task as one pair reads it: encoding, batching, label words.

    Args:
        max_length: the most tokens of a row; None: what the base takes.
    """

    pair: Pair
    task: Task
    max_length: int | None = None
    encoder: Encoder = field(init=False)
    collate: Collator = field(init=False)

    def __post_init__(self):
        limit = getattr(self.pair.base.model.config.get_text_config(), "max_position_embeddings", None)
        family = self.pair.base.family
        self.encoder = Encoder(self.task, self.pair.tokenizer, family, self.max_length or limit or 512)
        self.collate = Collator(self.pair.tokenizer, family)

    def batches(self, split: Split) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """(row numbers, batch) of similar length, the longest first."""
        encoded = self.encoder.split(split)
        plan, _ = batches(encoded.lengths, tokens_a_batch(self.pair.base.device))
        for rows in plan:
            batch = self.collate(encoded.take(rows))
            yield rows, {name: tensor.to(self.pair.base.device) for name, tensor in batch.items()}

    @property
    def ranks_labels(self) -> bool:
        """Whether classes are told apart by log p(label | text) rather than by a head."""
        return self.task.kind == "classification" and self.pair.base.family != "encoder"


def readable(pair: Pair, task: Task, splits: Collection[str], max_length: int | None = None) -> Task:
    """The task, these splits of it without the rows whose text to write the base cannot hold; they are told."""
    return fitting(Reader(pair, task, max_length).encoder, task, splits)


@torch.inference_mode()
def head_outputs(reader: Reader, split: Split) -> np.ndarray:
    """[N, C] outputs of the head: log-probabilities for classes, probabilities for several labels, numbers [N, 1]."""
    pair, kind = reader.pair, reader.task.kind
    found: dict[int, np.ndarray] = {}
    for rows, batch in reader.batches(split):
        with evaluating(pair.model):
            logits = pair.forward(batch).logits
        if logits is None:
            raise InputError(f"{reader.task.name}: this model has no head for {kind}")
        values = logits.float()
        values = values.log_softmax(-1) if kind == "classification" else values
        values = values.sigmoid() if kind == "multilabel" else values
        found.update(zip(rows, values.cpu().numpy(), strict=True))
    return np.stack([found[i] for i in range(len(split))])


def label_log_probs(reader: Reader, split: Split) -> np.ndarray:
    """[N, C] log p(label | text), normalised over the labels: classification by a language model."""
    shared, labels = reader.encoder.ranking()
    ranker = LabelRanker(reader.pair, labels)
    texts = [ids + shared for ids in _text_ids(reader, split)]
    tail = sum(len(ids) for ids in labels)
    plan, order = batches([len(ids) + tail for ids in texts], tokens_a_batch(reader.pair.base.device))
    scores = torch.cat([ranker.rank([texts[i] for i in rows]) for rows in plan])
    return scores[order].double().log_softmax(-1).cpu().numpy()


def _text_ids(reader: Reader, split: Split) -> list[list[int]]:
    """Each row's text without what follows it."""
    encoded = reader.encoder.split(split, text_only=True)
    return [features["input_ids"] for features in encoded.take(range(len(split)))]


def token_losses(reader: Reader, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """([N] summed negative log-likelihood in nats, [N] number of scored tokens) of a language model."""
    losses, counts = np.zeros(len(split)), np.zeros(len(split))
    for rows, batch in reader.batches(split):
        values, mask = log_probs(reader.pair, batch)
        losses[rows] = -values.double().sum(-1).cpu().numpy()
        counts[rows] = mask.sum(-1).cpu().numpy()
    return losses, counts


def generated(reader: Reader, split: Split, new_tokens: int = NEW_TOKENS) -> list[str]:
    """What the model writes for each row's text, greedily, special tokens left out."""
    texts = _text_ids(reader, split)
    plan, order = batches([len(ids) for ids in texts], WRITING)
    flat: list[str] = []
    for rows in plan:
        ids = greedy(reader.pair, [texts[i] for i in rows], new_tokens, reader.collate.pad_id)
        flat += reader.pair.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [flat[place].strip() for place in order]
