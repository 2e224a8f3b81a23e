"""The tasks of the stable fine-tuning reproduction, at their sizes, cut from real sets."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from pairtune.data.task import Task
from pairtune.reproductions.frame import Results
from pairtune.reproductions.sources import rows_of, write_task

BATCH = 8
GRADES = {"entailment": 1.0, "neutral": 0.5, "contradiction": 0.0}


@dataclass(frozen=True)
class Setting:
    """One task at one size. Arms tune for `steps` steps of `BATCH` rows; `rates_of`: whose learning rates it takes."""

    name: str
    kind: str
    train: int
    steps: int
    rates_of: str
    few: bool = True  # few examples: all arms, more seeds

    @property
    def folder(self) -> str:
        """Its name as a folder."""
        return self.name.replace(" ", "-")

    @property
    def options(self) -> dict[str, Any]:
        """How the task is read."""
        if self.kind == "regression":
            return {"kind": "regression", "text": ["premise", "hypothesis"], "label": "score", "name": "pairs"}
        return {"kind": "classification", "text": "text", "label": "label", "name": "sentences"}


SETTINGS = (
    Setting("64 sentences", "classification", 64, 48, "64 sentences"),
    Setting("64 pairs", "regression", 64, 48, "64 pairs"),
    Setting("250 sentences", "classification", 250, 96, "64 sentences", few=False),
    Setting("1000 sentences", "classification", 1000, 125, "64 sentences", few=False),
)


def task_of(results: Results, setting: Setting, settings: dict[str, Any]) -> Task:
    """The cut data as a task folder: the same validation and test rows for every size of a kind."""
    folder = results.folder / setting.folder
    if not folder.is_dir():
        name, stem = (
            ("snli_counterfactual", "original") if setting.kind == "regression" else ("movie_sentiment", "sst2")
        )
        sizes = {"train": setting.train, "validation": settings["validation"], "test": settings["test"]}
        splits = {}
        for (split, size), source in zip(sizes.items(), ("train", "dev", "test"), strict=True):
            rows = [_row(row) for row in rows_of(settings, name, f"{stem}_{source}")]
            random.Random(0).shuffle(rows)
            splits[split] = rows[:size]
        write_task(folder, splits)
    return Task.load(folder, **setting.options)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    if "premise" in row:
        return {"premise": row["premise"], "hypothesis": row["hypothesis"], "score": GRADES[row["label"]]}
    return {"text": row["text"], "label": row["label"]}
