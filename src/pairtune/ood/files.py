"""Score a file of any size into another: in constant memory, a stopped run going on where it was.

Results are written a chunk of inputs at a time, into a hidden file beside the result that takes its name at the end. A
chunk is scored and synced whole, so that a run that goes on forms the same batches and writes the same bytes as one
that was never stopped. What it must have in common with the stopped one (input file, pair, settings) is kept beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from pairtune.errors import FormatError, ResumeMismatch
from pairtune.ood.batching import AT_ONCE
from pairtune.pair.disk import read_json, write_json, writing
from pairtune.pair.lock import RunLock
from pairtune.pair.staging import check_writable
from pairtune.training.resume import differences

Rows = Iterator[Any]


def write_scored(
    out: Path,
    rows: Iterable[Any],
    scored: Callable[[list[Any]], Iterable[Mapping[str, Any]]],
    identity: Mapping[str, Any],
    *,
    restart: bool = False,
    progress: Callable[[int], None] = lambda count: None,
    at_once: int | None = None,
    done_word: str = "scored",
) -> int:
    """Write one JSON line for each row.

    Args:
        rows: all inputs, those of a stopped run again from the first.
        scored: the records of some rows, in their order.
        identity: what a run must share with the one that it goes on from.
        restart: begin again, whatever there is.
        progress: called with the number of rows done since the last call.
        at_once: rows of a chunk (2048 by default); what a stopped run has done of one is done again.
        done_word: what has been done to a row, for messages.

    Returns: how many rows had been done by an earlier run.

    Raises `ResumeMismatch` listing every difference from the run that was stopped, `RunLocked` where another process
    writes there, `KeyboardInterrupt` saying how to go on.
    """
    out = Path(os.path.realpath(out))
    check_writable(out.parent)
    partial, state = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.partial.json")
    with RunLock(out):
        if restart or not (partial.exists() and state.exists()):
            partial.unlink(missing_ok=True)
            state.unlink(missing_ok=True)
        before = _stopped(out, state, identity)
        done, size = before
        source = iter(rows)
        for _ in islice(source, done):
            pass
        progress(done)
        try:
            with writing(out), partial.open("r+b" if partial.exists() else "w+b") as file:
                file.truncate(size)
                file.seek(size)
                while chunk := list(islice(source, at_once or AT_ONCE)):
                    for record in scored(chunk):
                        file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                        progress(1)
                    file.flush()
                    os.fsync(file.fileno())
                    done += len(chunk)
                    write_json(state, {"identity": dict(identity), "rows": done, "bytes": file.tell()})
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{done:,} inputs are {done_word}, the same command goes on") from None
        os.replace(partial, out)
        state.unlink(missing_ok=True)
    return before[0]


def _stopped(out: Path, state: Path, identity: Mapping[str, Any]) -> tuple[int, int]:
    """How many rows and bytes a stopped run has left."""
    if not state.exists():
        return 0, 0
    found = read_json(state)
    rows, size = found.get("rows"), found.get("bytes")
    if type(rows) is not int or type(size) is not int or not isinstance(found.get("identity"), dict):
        raise FormatError(f"{state}: damaged; --restart begins again")
    drift = differences(found["identity"], json.loads(json.dumps(identity)))
    if drift:
        listing = "\n".join(f"  - {line}" for line in drift)
        raise ResumeMismatch(
            f"{out} was begun by a run that differs from this one:\n{listing}\n--restart begins again with this one"
        )
    return rows, size
