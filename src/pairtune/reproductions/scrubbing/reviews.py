"""Real data: sentiment of product reviews, where what is reviewed is spuriously a sign of the sentiment.

In tuning, 95 % of the praise is of books and 95 % of the blame is of kitchen ware; the test has as many of each of the
four kinds. The first words of a review are read.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pairtune.analysis.predict import Reader, head_outputs
from pairtune.data.task import Task
from pairtune.editing.scrub.offtopic import OffTopic
from pairtune.pair.complete import is_complete
from pairtune.pair.pair import Pair
from pairtune.pair.views import hidden_states
from pairtune.reproductions.sources import Rows, rows_of, write_task

PRAISED, BLAMED = "books", "kitchen"  # what is mostly praised in tuning, and what is mostly blamed
MINORITY, MAJORITY = "minority", "majority"
TASK = {"kind": "classification", "text": "text", "label": "label"}
CHARACTERS = 400


def write(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the task: train and validation with the correlation, test rows of all four kinds alike."""
    if is_complete(folder):
        return
    draw = random.Random(0)
    found: dict[tuple[int, str], Rows] = {}
    held: dict[tuple[int, str], Rows] = {}
    for domain in (PRAISED, BLAMED):
        for split, into in (("train", found), ("test", held)):
            rows = rows_of(settings, "amazon_domains", f"{domain}_{split}")
            draw.shuffle(rows)
            for row in rows:
                label = int(row["label"])
                one = {"text": row["text"][:CHARACTERS], "label": "good" if label else "bad", "domain": domain}
                into.setdefault((label, domain), []).append(one)
    splits: dict[str, Rows] = {"train": [], "validation": [], "test": []}
    for split, count in (("train", settings["review_rows"]), ("validation", settings["review_rows"] // 8)):
        for label, domain in ((1, PRAISED), (0, BLAMED)):
            other = BLAMED if domain == PRAISED else PRAISED
            rare = round(count / 2 * (1 - settings["correlation"]))
            splits[split] += _take(found[label, domain], count // 2 - rare) + _take(found[label, other], rare)
        draw.shuffle(splits[split])
    for rows in held.values():
        splits["test"] += rows[: settings["review_test"] // 4]
    write_task(folder, splits)


def _take(rows: Rows, count: int) -> Rows:
    taken, rows[:count] = rows[:count], []
    return taken


class Scorer:
    """The test rows, and which kind each is of."""

    def __init__(self, folder: Path, words: int):
        self.task, self._words = Task.load(folder, **TASK), words  # type: ignore[arg-type]
        rows = list(self.task.split("test"))
        praised = np.array([row["domain"] == PRAISED for row in rows])
        good = np.array([row["label"] == "good" for row in rows])
        self.kinds = {
            f"{label}, {domain}": (good == (label == "good")) & (praised == (domain == PRAISED))
            for label in ("good", "bad")
            for domain in (PRAISED, BLAMED)
        }
        self.minority = praised != good
        train = list(self.task.split("train"))
        self._texts = {domain: [r["text"] for r in train if r["domain"] == domain][:64] for domain in (PRAISED, BLAMED)}

    def outcomes(self, pair: Pair) -> dict[str, np.ndarray]:
        """1 for right and 0 for wrong, on the kinds that are rare in tuning and on the others."""
        found = head_outputs(Reader(pair, self.task, self._words), self.task.split("test")).argmax(1)
        right = (found == np.array([self.task.target(row) for row in self.task.split("test")])).astype(float)
        return {MINORITY: right[self.minority], MAJORITY: right[~self.minority]}

    @torch.inference_mode()
    def oracle(self, pair: Pair) -> Tensor:
        """[d] difference of the base's mean streams on either domain, over blocks."""
        layers = list(range(1, len(pair.base.blocks) + 1))
        means = {domain: self._mean(pair, texts, layers) for domain, texts in self._texts.items()}
        parts = means[PRAISED] - means[BLAMED]
        return (parts / parts.norm(dim=1, keepdim=True)).mean(0)

    def _mean(self, pair: Pair, texts: list[str], layers: list[int]) -> Tensor:
        total, tokens = torch.zeros(len(layers), pair.base.hidden_size), 0
        with pair.off():
            for batch in OffTopic(pair, texts).batches:
                mask = batch["attention_mask"].bool()
                for i, hidden in enumerate(hidden_states(pair, batch, layers).values()):
                    total[i] += hidden[mask].float().sum(0).cpu()
                tokens += int(mask.sum())
        return total / tokens
