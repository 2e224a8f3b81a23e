"""Score texts with detectors: streams of any length in constant memory, in the order in which they came."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pairtune.data.buckets import batches, tokens_a_batch
from pairtune.errors import InputError, NonFiniteError
from pairtune.ood.batching import AT_ONCE, Batcher, input_of
from pairtune.ood.forms import available, default_names, make_detectors, refuse_misfits
from pairtune.ood.inputs import Input
from pairtune.ood.media import MediaBatcher
from pairtune.pair.modality import TEXT
from pairtune.pair.separation import Separation, separation

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.data.split import Split
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair

DEFAULT = ("log-ratio:sum", "log-ratio:token", "length")
Given = str | Sequence[Any] | Input

__all__ = ["DEFAULT", "Input", "Score", "Scorer", "available", "make_detectors", "score", "score_table", "separate"]


@dataclass(frozen=True)
class Score:
    """One text's scores by detector (higher = more out of distribution) and its number of tokens.

    `answer` is the answer that was scored, where a detector reads one: the given one, or the variant's own.
    """

    scores: dict[str, float]
    tokens: int
    answer: str | None = None


class Scorer:
    """A pair and some detectors, ready to score texts.

    Args:
        names: detectors, by default the log ratio in both its forms and length alone, or what the pair's head allows.
        max_length: the most tokens of a text, the rest is cut; None: what the base takes.
        settings: method → settings beside those in the names.
        task: the pair's task, where it has no card that tells label names, columns and separator.
        new_tokens: the most tokens of an answer that the variant writes.

    Raises `MissingView` where a detector needs a view that the pair does not have.
    """

    def __init__(
        self,
        pair: Pair,
        names: Sequence[str] | None = None,
        max_length: int | None = None,
        *,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        task: Task | None = None,
        new_tokens: int = 128,
    ):
        names = list(default_names(pair, task) if names is None else names)
        self.pair, self.detectors = pair, make_detectors(names, settings)
        refuse_misfits(pair, self.detectors, task)
        needs = frozenset().union(*(detector.needs for detector in self.detectors.values()))
        answers = any(detector.answers for detector in self.detectors.values())
        self.batcher: Any = (
            Batcher(pair, needs, answers, max_length, task, new_tokens)
            if pair.base.modality is TEXT
            else MediaBatcher(pair)
        )

    def fit(self, task: Task, split: str = "train") -> Scorer:
        """Let every detector that must learn from ID data read a split of the task, whose labelled rows count."""
        detectors = [one for one in self.detectors.values() if one.must_fit(self.pair)]
        rows = self.batcher.labelled(task, task.split(split)) if detectors else iter(())
        # One detector reads the batches as they come; several read them in turn, what each computes being kept.
        shared: Iterable[dict[str, Any]] = list(rows) if len(detectors) > 1 else rows
        for detector in detectors:
            with torch.inference_mode():
                detector.fit(self.pair, shared)
        return self

    def stream(self, texts: Iterable[Given]) -> Iterator[Score]:
        """The score of every text, in order. A text without tokens scores 0.

        Raises `InputError` for a detector that was not fitted, `NonFiniteError` for a score that is NaN or infinite.
        """
        self.require_fit()
        source = iter(texts)
        while chunk := list(islice(source, AT_ONCE)):
            yield from self._chunk([Input.of(one) for one in chunk])

    def table(self, texts: Iterable[Given]) -> dict[str, np.ndarray]:
        """Detector → [N] scores."""
        found = list(self.stream(texts))
        return {name: np.array([one.scores[name] for one in found]) for name in self.detectors}

    def require_fit(self) -> None:
        """Raise `InputError` where a detector must be fitted and is not."""
        for name, detector in self.detectors.items():
            if detector.must_fit(self.pair) and not detector.fitted:
                raise InputError(
                    f"{name} must learn from ID data first: Scorer.fit(task), or `pairtune score --fit TASK`"
                )

    def _chunk(self, inputs: list[Input]) -> list[Score]:
        rows = self.batcher.rows(inputs)
        plan, order = batches([row.longest for row in rows], tokens_a_batch(self.pair.base.device))
        flat: list[dict[str, float]] = []
        for picked in plan:
            flat += self._batch(self.batcher.batch([rows[i] for i in picked]))
        return [Score(flat[place], len(row.question.ids), row.answer) for place, row in zip(order, rows, strict=True)]

    @torch.inference_mode()
    def _batch(self, batch: dict[str, Any]) -> list[dict[str, float]]:
        columns = {name: self._finite(name, one.score(self.pair, batch)) for name, one in self.detectors.items()}
        return [{name: column[i] for name, column in columns.items()} for i in range(len(batch["attention_mask"]))]

    def _finite(self, name: str, scores: Tensor) -> list[float]:
        if not bool(scores.isfinite().all()):
            raise NonFiniteError(
                f"{name} gives a score that is NaN or infinite: the weights of base or variant overflow on this text; "
                "`pairtune doctor --pair` looks for the layer"
            )
        return scores.tolist()


def texts_of(task: Task, split: Split) -> list[str]:
    """The texts of a split as a language model reads them."""
    return [task.prompt(row) for row in split]


def inputs_of(pair: Pair, task: Task, split: Split) -> list[Given]:
    """The rows of a split as this pair was tuned to read them: texts, pairs of texts, questions with answers."""
    return [input_of(pair, task, row) for row in split]


def separate(
    pair: Pair, task: Task, names: Sequence[str] | None = None, resamples: int = 300, *, scorer: Scorer | None = None
) -> dict[str, dict[str, Separation]]:
    """OOD split → detector → how well its score separates the task's test split from that split.

    Detectors that must learn do so on the train split. `scorer` takes the place of `names`.
    """
    scorer = (scorer or Scorer(pair, names, task=task)).fit(task)
    inside = scorer.table(inputs_of(pair, task, task.split("test")))
    found = {}
    for name, split in task.splits.items():
        if name.startswith("ood/"):
            outside = scorer.table(inputs_of(pair, task, split))
            found[name] = {d: separation(inside[d], outside[d], resamples) for d in scorer.detectors}
    return found


def score_table(
    pair: Pair, texts: Iterable[Given], task: Task, names: Sequence[str] | None = None, **options: Any
) -> dict[str, np.ndarray]:
    """Detector → [N] scores of texts by every detector that works on this pair (or those named), in one call.

    Args:
        task: the ID task: its train split is what detectors learn from.
        options: as for `Scorer`: `max_length`, `settings`, `new_tokens`.
    """
    chosen = available(pair, task) if names is None else names
    return Scorer(pair, chosen, task=task, **options).fit(task).table(texts)


def score(pair: Pair, texts: Iterable[Given], detector: str = "log-ratio") -> list[float]:
    """The score of each text: higher means further from what the variant was tuned on."""
    return [one.scores[detector] for one in Scorer(pair, [detector]).stream(texts)]
