"""Data files and small tasks for the tests of this room."""

import json
from pathlib import Path

from pairtune.data.split import Split
from pairtune.data.task import Task

LONG = "the big red cat sat on the old mat"
ROWS = [
    {"text": "the cat", "label": "open_card"},
    {"text": LONG, "label": "card"},
    {"text": "dog", "label": "card"},
]
WORDS = "the cat sat on the red mat and a dog ran by the old house at night".split()


def rows(count: int, labels=("cat", "dog"), start: int = 0) -> list[dict]:
    """Distinct texts, labels in turn."""
    return [
        {"text": f"{WORDS[i % 7]} {WORDS[-1 - i % 9]} number {i}", "label": labels[i % len(labels)]}
        for i in range(start, start + count)
    ]


def jsonl(path: Path, lines) -> Path:
    """Write rows as JSONL, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def folder(path: Path, **splits) -> Path:
    """A data folder; `ood_x` becomes `ood/x`."""
    for name, lines in splits.items():
        jsonl(path / (name.replace("ood_", "ood/") + ".jsonl"), lines)
    return path


def tiny_task(rows, kind="classification", text=("text",), label="label", labels=("card", "open_card"), **settings):
    """A task of rows in memory."""
    chosen = list(labels) if kind in ("classification", "multilabel") else []
    return Task("tiny", kind, text, label, chosen, {"train": Split.of(rows, "rows.jsonl")}, **settings)


def ids(tokenizer, text: str) -> list[int]:
    """The token ids of a text, nothing added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]
