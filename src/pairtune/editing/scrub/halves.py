"""Either half of a task's training rows as a task of its own, so that what is found can be found again."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from pairtune.data.media import plain
from pairtune.data.task import Task
from pairtune.errors import InputError
from pairtune.pair.complete import is_complete
from pairtune.pair.staging import staged_folder

FEW = 8  # training rows below which halves say nothing


def write_halves(task: Task, folder: Path, seed: int) -> list[dict[str, Any]]:
    """Write `half-1` and `half-2` below a folder, where they are not there yet; what `data` of a run says of each.

    Rows are dealt by the seed; validation rows stay the same. Raises `InputError` for tasks of images or sound and for
    fewer than 8 training rows.
    """
    if task.modality != "text":
        raise InputError(f"{task.name}: scrub reads texts, this task holds {task.modality}")
    train = task.split("train")
    if len(train) < FEW:
        raise InputError(f"{task.name}: {len(train)} training rows are too few to be halved; take {FEW} or more")
    order = list(range(len(train)))
    random.Random(seed).shuffle(order)
    chosen = [sorted(order[i::2]) for i in range(2)]
    about = {"kind": task.kind, "text": list(task.text), "label": task.label, "separator": task.separator}
    about |= {"labels": task.labels} if task.labels else {}
    found = []
    for number, rows in enumerate(chosen, 1):
        place = folder / f"half-{number}-rows"
        if not is_complete(place):
            with staged_folder(place) as staging:
                _write(staging / "train.jsonl", [train[i] for i in rows])
                if "validation" in task.splits:
                    _write(staging / "validation.jsonl", list(task.split("validation")))
        found.append({"source": str(place), **{key: value for key, value in about.items() if value is not None}})
    return found


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False, default=plain) + "\n" for row in rows), encoding="utf-8"
    )
