"""The tasks of the stable fine-tuning reproduction, at their sizes, cut from real sets."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairtune.data.readers import read
from pairtune.data.task import Task
from pairtune.errors import InputError
from pairtune.pair.staging import staged_folder
from pairtune.reproductions.frame import Results

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
        root = Path(settings["data"] or os.environ.get("PAIRTUNE_DATA") or ".")
        place = root / ("snli_counterfactual" if setting.kind == "regression" else "movie_sentiment")
        if not place.is_dir():
            raise InputError(f"{place}: there is no such folder; name the data folder with --set data=FOLDER")
        stem = "original" if setting.kind == "regression" else "sst2"
        with staged_folder(folder) as staging:
            sizes = {"train": setting.train, "validation": settings["validation"], "test": settings["test"]}
            for (split, size), source in zip(sizes.items(), ("train", "dev", "test"), strict=True):
                rows = [_row(row) for _, row in read(place / f"{stem}_{source}.jsonl.gz")]
                random.Random(0).shuffle(rows)
                lines = [json.dumps(row) for row in rows[:size]]
                (staging / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return Task.load(folder, **setting.options)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    if "premise" in row:
        return {"premise": row["premise"], "hypothesis": row["hypothesis"], "score": GRADES[row["label"]]}
    return {"text": row["text"], "label": row["label"]}
