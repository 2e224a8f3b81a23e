"""What a search has measured, line by line in a file, so that a stopped one goes on where it was."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pairtune.errors import FormatError, InputError
from pairtune.merging.search.space import Point
from pairtune.pair.disk import writing

JOURNAL = "search.jsonl"


@dataclass(frozen=True)
class Trial:
    """One merge that was tried.

    Attributes:
        number: from 0, in the order in which they were proposed.
        name: of a point of the initial design; else who proposed it ("forest", "tpe", "random").
        point: see `space.py`.
        scores: objective → score, higher is better; NaN where the merged model has none.
        seconds: of merging and scoring.
    """

    number: int
    name: str
    initial: bool
    point: Point
    scores: dict[str, float]
    seconds: float


class Journal:
    """The trials of one search, in memory and, with a folder, on disk.

    Args:
        folder: where `search.jsonl` is; None keeps nothing.
        identity: what the search is of; a journal of another search is refused.

    Raises `InputError` for a journal of another search, `FormatError` for a damaged one.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any]):
        self.path = None if folder is None else folder / JOURNAL
        self.trials: list[Trial] = []
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        head = json.dumps({"search": identity}, sort_keys=True)
        if self.path.exists() and self.path.stat().st_size:
            self._read(head)
        else:
            self._append(head)

    def add(self, trial: Trial) -> None:
        """Keep a trial."""
        self.trials.append(trial)
        self.trials.sort(key=lambda one: one.number)
        if self.path is not None:
            scores = {name: value if math.isfinite(value) else None for name, value in trial.scores.items()}
            self._append(json.dumps(asdict(trial) | {"scores": scores}))

    def _read(self, head: str) -> None:
        assert self.path is not None
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # the last line was being written when the program was killed
            os.truncate(self.path, len(whole))
        first, *lines = whole.decode().splitlines() or [""]
        if not first:
            self._append(head)
            return
        if first != head:
            what = _difference(first, head)
            raise InputError(f"{self.path}: belongs to another search ({what}); choose another folder")
        for number, line in enumerate(lines, 2):
            try:
                read = json.loads(line)
                scores = {name: math.nan if value is None else float(value) for name, value in read["scores"].items()}
                self.trials.append(Trial(**read | {"scores": scores}))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise FormatError(f"{self.path}, line {number}: is not a trial of a search; delete the file") from None
        self.trials.sort(key=lambda one: one.number)

    def _append(self, line: str) -> None:
        assert self.path is not None
        with writing(self.path, len(line) + 1), open(self.path, "ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _difference(first: str, head: str) -> str:
    """What differs between two searches, by name."""
    try:
        old, new = json.loads(first)["search"], json.loads(head)["search"]
        names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its first line says nothing of one"
    return "it differs in " + ", ".join(names)
