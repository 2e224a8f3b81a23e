"""Metrics of a base and any number of variants on a task's splits, over the same items, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pairtune.analysis import metrics as measures
from pairtune.analysis import predict
from pairtune.analysis.paired import Difference, compare
from pairtune.analysis.predict import Reader
from pairtune.analysis.probe import NAME as PROBE
from pairtune.analysis.probe import Probe
from pairtune.errors import BaseMismatch, DataError
from pairtune.pair.pair import Pair

if TYPE_CHECKING:
    from pairtune.data.split import Split
    from pairtune.data.task import Task

BASE = "base"
Measured = tuple[dict[str, float], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        metrics: split → model → metric → value. The base is the model "base", or "base + linear probe" where the head
            is new and the base has none of its own.
        differences: split → variant → metric → variant − base over the same items.
        items: split → number of rows that were scored.
        skipped: split → why it was not scored.
    """

    metrics: dict[str, dict[str, dict[str, float]]]
    differences: dict[str, dict[str, dict[str, Difference]]]
    items: dict[str, int]
    skipped: dict[str, str] = field(default_factory=dict)


def evaluate(
    pairs: Pair | Mapping[str, Pair],
    task: Task,
    splits: Sequence[str] | None = None,
    *,
    generate: bool = False,
    max_length: int | None = None,
) -> Evaluation:
    """Evaluate the base once and every variant, on the test split and all OOD splits by default.

    Args:
        pairs: one pair (named "variant") or several by name; all on one base.
        splits: the splits to score; "train" only where it is asked for.
        generate: for tasks that write text, also generate and compare with the targets (exact match, ROUGE-L, chrF).

    Raises `BaseMismatch` for pairs on different bases, `InputError` for a split that does not exist.
    """
    named = {"variant": pairs} if isinstance(pairs, Pair) else dict(pairs)
    first = next(iter(named.values()))
    for name, pair in named.items():
        difference = first.base.fingerprint.first_difference(pair.base.fingerprint)
        if difference is not None:
            raise BaseMismatch(f"{name} stands on another base than {next(iter(named))}: {difference}")
    chosen = splits or [name for name in task.splits if name == "test" or name.startswith("ood/")]
    found = Evaluation({}, {}, {})
    probe: Probe | None = None
    if first.base.new_names and task.kind in ("classification", "regression") and "train" in task.splits:
        probe = Probe(Reader(first, task, max_length))
    for name in chosen:
        split, left_out = _scorable(task, name)
        if not len(split):
            found.skipped[name] = f"none of its {left_out} rows has a label of this task"
            continue
        if left_out:
            found.skipped[name] = f"{left_out} rows without a label of this task are left out"
        _evaluate_split(found, name, split, named, task, probe, generate, max_length)
    return found


def _scorable(task: Task, name: str) -> tuple[Split, int]:
    """The rows of a split that have a target, and how many have none."""
    split = task.split(name)
    if task.label is None:
        return split, 0
    rows = [i for i, row in enumerate(split) if task.target(row) is not None]
    return split.select(rows), len(split) - len(rows)


def _evaluate_split(
    found: Evaluation,
    name: str,
    split: Split,
    named: Mapping[str, Pair],
    task: Task,
    probe: Probe | None,
    generate: bool,
    max_length: int | None,
) -> None:
    first = next(iter(named.values()))
    measured: dict[str, Measured] = {}
    if probe is not None:
        measured[PROBE] = _measure(task, split, probe.outputs(split))
    elif not first.base.new_names:
        with first.off():
            measured[BASE] = _side(Reader(first, task, max_length), split, generate)
    for label, pair in named.items():
        measured[label] = _side(Reader(pair, task, max_length), split, generate)
    found.items[name] = len(split)
    found.metrics[name] = {model: values for model, (values, _) in measured.items()}
    base = measured.get(PROBE) or measured.get(BASE)
    if base is not None:
        found.differences[name] = {
            label: {metric: compare(base[1][metric], outcome) for metric, outcome in measured[label][1].items()}
            for label in named
        }


def _side(reader: Reader, split: Split, generate: bool) -> Measured:
    """Metrics of the side of a pair that is on."""
    if reader.ranks_labels:
        return _measure(reader.task, split, predict.label_log_probs(reader, split))
    if reader.task.kind not in ("lm", "seq2seq"):
        return _measure(reader.task, split, predict.head_outputs(reader, split))
    values, items = measures.tokens(*predict.token_losses(reader, split))
    if generate:
        if reader.task.label is None:
            raise DataError(f"{reader.task.name}: there is no target column to compare generated texts with")
        targets = [str(reader.task.target(row)) for row in split]
        more, more_items = measures.texts(predict.generated(reader, split), targets)
        values, items = values | more, items | more_items
    return values, items


def _measure(task: Task, split: Split, outputs: np.ndarray) -> Measured:
    targets: list[Any] = [task.target(row) for row in split]
    if task.kind == "classification":
        return measures.classification(outputs, np.array(targets))
    if task.kind == "multilabel":
        truth = np.zeros((len(split), len(task.labels)))
        for i, indices in enumerate(targets):
            truth[i, indices] = 1
        return measures.multilabel(outputs, truth)
    return measures.regression(outputs[:, 0], np.array(targets, dtype=float))
