"""What the loop reads: batches of the training and validation splits of a task, for one base and objective."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.data import Collator, Encoded, Encoder, Packed, batches
from pairtune.data.augment import WAYS, Augmenter
from pairtune.data.fitting import fitting
from pairtune.data.masking import Masker
from pairtune.data.packing import prove_apart
from pairtune.errors import InputError
from pairtune.method import VIEWS
from pairtune.pair.logprobs import accepts
from pairtune.pair.modality import TEXT

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.data.task import Task
    from pairtune.objectives import Objective
    from pairtune.pair.base import Base
    from pairtune.pair.installed import Installed
    from pairtune.training.config import Training

log = logging.getLogger("pairtune")
Batch = dict[str, Any]
Features = Callable[[Batch], dict[str, "Tensor"]]
CALIBRATION_ROWS = 256


class Feeds:
    """Batches by row number.

    Attributes:
        rows: rows of the training split (packed ones, where documents are packed).
        validates: whether there is a validation split.
        masker: hides tokens of every row, where the objective is to say them.
        augmenter: changes training images or sound a little, otherwise in every pass.
        passes: says which pass over the training split is being read, from 0.

    Args:
        train: encoded training rows; held: encoded validation rows.
        collate: features to a batch.
        batch_size: most rows of a batch in training; in validation, so many of the longest rows.
    """

    def __init__(
        self, train: Encoded | Packed, held: Encoded | None, collate: Callable[[Sequence[Any]], Batch], batch_size: int
    ):
        self._train, self._held, self._collate, self._size = train, held, collate, batch_size
        self.rows, self.validates = len(train), held is not None
        self.masker: Masker | None = None
        self.augmenter: Augmenter | None = None
        self.passes: Callable[[], int] = lambda: 0
        self._plan: list[list[int]] | None = None

    @classmethod
    def of(
        cls, task: Task, base: Base, objective: Objective, training: Training, seed: int = 0, tokenizer: Any = None
    ) -> Feeds:
        """Encode a task for a base as the objective needs it.

        Args:
            seed: decides which tokens are hidden, where some are.
            tokenizer: the pair's own, where it has one; else the base's.

        Raises `InputError` for a task without training rows.
        """
        view = next(iter(objective.needs & VIEWS))
        _refuse_misplaced(training, base)
        length = training.max_length or longest_input(base)
        only = getattr(objective.settings, "completion_only", None)
        encoder = Encoder(task, tokenizer or base.tokenizer, base.family, length, view=view, completion_only=only)
        task = fitting(encoder, task, [name for name in ("train", "validation") if name in task.splits])
        train = encoder.split(task.split("train"))
        held = encoder.split(task.split("validation")) if "validation" in task.splits else None
        rows: Encoded | Packed = train
        if training.packing:
            if base.family != "causal" or view != "tokens":
                raise InputError("training.packing: only texts for a causal language model can be packed")
            prove_apart(base.model)
            rows = Packed(train)
            log.info("%s", rows.report())
        if training.max_length is not None and (cut := train.report()):
            log.warning("%s", cut)
        feeds = cls(rows, held, _collator(base), training.batch_size)
        if training.augment:
            feeds.augmenter = Augmenter(training.augment, seed)
        if view == "masked":
            feeds.masker = Masker(base.tokenizer, base.vocabulary_rows, objective.settings.masked, seed)  # type: ignore[attr-defined]
        return feeds

    def train(self, numbers: Sequence[int]) -> Batch:
        """The batch of these training rows."""
        if not isinstance(self._train, Encoded):
            return self._collate([self._train[i] for i in numbers])
        rows = self._train.take(numbers)
        changed = self.masker or self.augmenter
        return self._collate(changed(rows, self.passes()) if changed else rows)

    def validation(self) -> Iterator[Batch]:
        """The validation split in batches of rows of similar length, the longest first."""
        assert self._held is not None
        if self._plan is None:
            self._plan, _ = batches(self._held.lengths, self._size * max(self._held.lengths))
        for numbers in self._plan:
            rows = self._held.take(numbers)
            yield self._collate(self.masker(rows, 0) if self.masker else rows)

    def where(self, row: int) -> str:
        """File and line of a training row (of a packed row's first document)."""
        encoded = self._train if isinstance(self._train, Encoded) else self._train.encoded
        return encoded.rows.where(row)

    def caches(self, root: Path, base: Base, installed: Installed, training: Training) -> dict[str, Features]:
        """Caches of what the frozen base says, for "train" and "validation"; none where the delta needs it to run.

        Each split may take half of `training.cache_gb` on disk.
        """
        if "cacheable" not in installed.provides or not training.cache_gb or not isinstance(self._train, Encoded):
            return {}
        from pairtune.tuners.cache import ActivationCache

        splits = {"train": None if self.augmenter else self._train, "validation": self._held}
        compute = installed.features  # type: ignore[attr-defined]
        caches = {
            name: ActivationCache.open(
                root,
                base,
                installed,
                data=encoded.rows.fingerprint,
                rows=len(encoded),
                max_length=encoded.encoder.max_length,
                limit=int(training.cache_gb * 5e8),
            )
            for name, encoded in splits.items()
            if encoded is not None
        }
        return {name: partial(cache.features, compute=compute) for name, cache in caches.items()}

    def calibration(self) -> Iterator[Batch]:
        """A few batches spread over the training split, for tuners that look at data before they start."""
        step = max(1, self.rows // CALIBRATION_ROWS)
        numbers = list(range(0, self.rows, step))[:CALIBRATION_ROWS]
        for start in range(0, len(numbers), self._size):
            yield self.train(numbers[start : start + self._size])


def _refuse_misplaced(training: Training, base: Base) -> None:
    """Raise `InputError` for a setting that means nothing for what the base reads."""
    if base.modality is not TEXT and training.max_length is not None:
        raise InputError(
            f"training.max_length: every one of {base.source}'s {base.modality.many} has "
            f"{base.tokenizer.positions} positions; leave it out"
        )
    fitting = WAYS[base.modality.name]
    wrong = [way for way in training.augment if way not in fitting]
    if wrong:
        there = f"there are {', '.join(fitting)}" if fitting else "there are none"
        raise InputError(f"training.augment: {wrong[0]} is not for {base.modality.many} ({there})")


def longest_input(base: Base) -> int:
    """The most tokens that the base takes, by its tokenizer and its position embeddings; an image's positions."""
    if base.modality is not TEXT:
        return base.tokenizer.positions
    config = base.model.config.get_text_config()
    limits = [getattr(base.tokenizer, "model_max_length", None), getattr(config, "max_position_embeddings", None)]
    known = [int(limit) for limit in limits if limit and limit < 1e9]
    return min(known, default=512)


def _collator(base: Base) -> Callable[[Sequence[Any]], Batch]:
    collate = Collator(base.tokenizer, base.family)
    if base.family != "causal" or accepts(base.model, "position_ids"):
        return collate

    def without_positions(features: Sequence[Any]) -> Batch:
        batch = collate(features)
        batch.pop("position_ids", None)
        return batch

    return without_positions
