"""What the base says without tuning: a linear probe, and for two texts the cosine of what it says of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pairtune.analysis.predict import Reader
from pairtune.analysis.probe import Probe, pooled
from pairtune.data.task import Task
from pairtune.pair.pair import Pair

PROBE, COSINE = "linear probe", "zero-shot cosine"


def outputs(name: str, pair: Pair, task: Task, folder: Path, max_length: int) -> np.ndarray:
    """[N, C] log-probabilities or [N, 1] numbers for the test split; `folder` is where the task lies."""
    if name == PROBE:
        return Probe(Reader(pair, task, max_length)).outputs(task.split("test"))
    return _cosine(pair, task, folder, max_length)


def _cosine(pair: Pair, task: Task, folder: Path, max_length: int) -> np.ndarray:
    """[N, 1] line through the cosine of the two texts' mean tokens, fitted on the training pairs."""
    found = {}
    for split in ("train", "test"):
        sides = []
        for column in task.text:
            one = Task.load(folder, kind="regression", text=[column], label=task.label)
            vectors = pooled(Reader(pair, one, max_length), one.split(split))
            sides.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        found[split] = (sides[0] * sides[1]).sum(1)
    truth = np.array([task.target(row) for row in task.split("train")])
    slope, start = np.polyfit(found["train"], truth, 1)
    return (slope * found["test"] + start)[:, None]
