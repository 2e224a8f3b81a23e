"""Data files for the tests of this room."""

import json
from pathlib import Path

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
