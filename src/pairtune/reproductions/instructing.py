"""What the reproductions of CorDA and of side tuning share: instructions to follow, an encyclopedia to keep in mind."""

from __future__ import annotations

import gzip
import json
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pairtune.analysis.predict import Reader, token_losses
from pairtune.data.task import Task
from pairtune.pair.pair import Pair
from pairtune.reproductions.sources import Rows, place, rows_of, write_task
from pairtune.training.run import tune

INSTRUCTIONS = {"kind": "lm", "text": "text", "label": "answer", "name": "instructions"}
ENCYCLOPEDIA = {"kind": "lm", "text": "text", "name": "encyclopedia"}
SHORT, MOST, LONG = 20, 110, 400  # characters of an answer, at least and at most; of a paragraph, at least


def write(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the tasks `instructions` and `encyclopedia` (train is the context, test is measured)."""
    if not (folder / "instructions").is_dir():
        found = {name: _answers(rows_of(settings, "instructions_small", name)) for name in ("train", "valid")}
        sizes = {"train": settings["train"], "validation": settings["held"]}
        rows, test = found["train"], found["valid"][: settings["test"]]
        splits = {
            "train": rows[: sizes["train"]],
            "validation": rows[sizes["train"] :][: sizes["validation"]],
            "test": test,
        }
        write_task(folder / "instructions", splits)
    if not (folder / "encyclopedia").is_dir():
        files = {"train": "valid", "test": "test"}
        splits = {name: _paragraphs(place(settings, "wikitext2") / f"{file}.txt.gz") for name, file in files.items()}
        splits["test"] = splits["test"][: settings["test"]]
        write_task(folder / "encyclopedia", splits | {"validation": splits["train"][:1]})


def instructions(folder: Path) -> Task:
    """Answers to instructions; the answer is what counts."""
    return Task.load(str(folder / "instructions"), **INSTRUCTIONS)  # type: ignore[arg-type]


def encyclopedia(folder: Path) -> Task:
    """Paragraphs of an encyclopedia."""
    return Task.load(str(folder / "encyclopedia"), **ENCYCLOPEDIA)  # type: ignore[arg-type]


def gains(pair: Pair, task: Task, split: str, words: int) -> np.ndarray:
    """[rows] −loss of a scored token, nats."""
    losses, counts = token_losses(Reader(pair, task, words), task.split(split))
    return -losses / np.maximum(counts, 1)


def tuned(
    folder: Path, settings: Mapping[str, Any], tuner: dict[str, Any], rate: float, seed: int, **more: Any
) -> Pair:
    """One run on the instructions; of what it leaves on disk, the logged losses stay in its record, as `curve`."""
    config = {
        "base": settings["base"],
        "data": {"source": str(folder / "instructions"), **INSTRUCTIONS},
        "tuner": tuner,
        "seed": seed,
        "device": "cpu",
        **more,
        "training": {
            "lr": rate, "max_steps": settings["steps"], "eval_every": settings["steps"], "warmup": 0.05, "keep": 1,
            "batch_size": settings["batch"], "max_length": settings["words"], "metric": "loss", "log_every": 5,
        },
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        pair = tune(config | {"out": f"{place}/pair"})
        state = max(Path(place).glob("pair.run/checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
        history = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    pair.top.record["training"]["curve"] = [line["loss"] for line in history if "loss" in line]
    return pair


def validation_loss(pair: Pair) -> float:
    """Of the last stage."""
    return float(pair.top.record["training"]["metrics"]["validation loss"])


def _answers(rows: Rows) -> Rows:
    """Instruction and input as the text, the beginning of the output as the answer; very short ones are left out."""
    found = [
        {
            "text": " ".join(filter(None, (row["instruction"].strip(), row["input"].strip()))) + "\n",
            "answer": row["output"][:MOST].rpartition(" ")[0] if len(row["output"]) > MOST else row["output"],
        }
        for row in rows
        if len(row["output"]) >= SHORT and row["output"][:MOST].isascii()
    ]
    random.Random(0).shuffle(found)
    return found


def _paragraphs(path: Path) -> Rows:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        found = [line.strip() for line in file if len(line) >= LONG]
    random.Random(0).shuffle(found)
    return [{"text": text.replace("<unk>", "").replace(" @-@ ", "-")} for text in dict.fromkeys(found)]
