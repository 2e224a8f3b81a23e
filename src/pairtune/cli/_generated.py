"""Prompts through `pairtune generate`: one that is streamed, or a file of them, and the record of each."""

from __future__ import annotations

import json as json_
import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.cli import frame
from pairtune.cli._columns import Columns
from pairtune.errors import DataError
from pairtune.generation.engine import Writer
from pairtune.generation.vectors import summed

if TYPE_CHECKING:
    from pairtune.generation.decoding import Decoding
    from pairtune.generation.prompts import Prompt
    from pairtune.generation.steering import Positions
    from pairtune.generation.vectors import SteeringVectors
    from pairtune.ood.inputs import Input
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")
AT_ONCE = 64  # prompts between two syncs of the file
LAYOUTS = {"as tuned": "as the pair was tuned on them", "chat": "by the chat template"}


@dataclass(frozen=True)
class Wanted:
    """What was asked for of a file."""

    inputs: Path
    text: list[str] | None
    out: Path | None
    restart: bool
    alpha: float | None
    steer: list[str]
    json: bool


class Job:
    """A writer, and what becomes of what it writes.

    Args:
        clean: leave out what points against the one vector, and keep the whole beside it.
    """

    def __init__(
        self,
        pair: Pair,
        decoding: Decoding,
        vectors: list[SteeringVectors],
        positions: Positions,
        raw: bool,
        clean: bool,
    ):
        self.writer = Writer(pair, decoding, vectors, positions, raw)
        if said := LAYOUTS.get(self.writer.prompts.layout):
            log.info("prompts are laid out %s; --raw reads them as they are", said)
        self.raw, self.clean = raw, clean

    def records(self, prompts: list[Prompt]) -> Iterator[dict[str, Any]]:
        """Text, number of tokens, why it ended; with `clean` the whole text and what was left out of it."""
        rows = [self.writer.prompts.ids(prompt) for prompt in prompts]
        for ids, one in zip(rows, self.writer.continued(rows), strict=True):
            record = {"text": one.text, "tokens": len(one.ids), "ended": one.ended}
            if self.clean:
                from pairtune.editing.reflex.clean import cleaned

                found = cleaned(self.writer, ids, one)
                record |= {"text": found.text, "uncleaned": one.text, "left_out": found.left_out}
            yield record


def side(pair: Pair, alpha: float | None) -> AbstractContextManager[Any]:
    """The variant, the base, or a point of the line through both."""
    return nullcontext() if alpha in (None, 1.0) else pair.off() if alpha == 0 else pair.at(alpha)  # type: ignore


def one(job: Job, prompt: str, as_json: bool) -> None:
    """Write behind one prompt: shown as it is written, where it can be."""
    if as_json or job.clean or not job.writer.streams:
        (record,) = job.records([prompt])
        frame.emit({"prompt": prompt, **record}, as_json, text=record["text"])
        return

    def show(piece: str) -> None:
        print(piece, end="", flush=True)

    job.writer.stream(prompt, show)
    print(flush=True)


def run(job: Job, wanted: Wanted) -> None:
    """Write behind every prompt of a file; with `out` into a file, else on stdout."""
    pair = job.writer.pair
    columns = Columns.of(wanted.text, None, pair, False).settled(wanted.inputs)
    count = 0
    for line, given in columns.rows(wanted.inputs):  # every row is checked before the first one costs time
        _checked(job, wanted.inputs, line, given)
        count += 1
    with _progress(count) as bar:
        if wanted.out is None:
            source = columns.rows(wanted.inputs)
            while chunk := list(islice(source, AT_ONCE)):
                for record in _records(job, chunk):
                    bar.update()
                    text = json_.dumps(record, ensure_ascii=False) if wanted.json else _shown(record)
                    frame.emit(record, False, text=text)
            return
        from pairtune.ood.files import write_scored

        identity, rows = _identity(job, wanted, columns), columns.rows(wanted.inputs)
        done = write_scored(
            wanted.out, rows, lambda chunk: _records(job, chunk), identity, restart=wanted.restart,
            progress=lambda n: bar.update(n) and None, at_once=AT_ONCE, done_word="done",
        )  # fmt: skip
    resumed = f" ({done:,} of them by the run that was stopped)" if done else ""
    report = {"out": str(wanted.out), "written": count, "resumed_at": done}
    frame.emit(report, wanted.json, text=f"{count:,} prompts continued into {wanted.out}{resumed}")


def _records(job: Job, chunk: list[tuple[int, Input]]) -> Iterator[dict[str, Any]]:
    found = job.records([_prompt(given) for _, given in chunk])
    for (line, given), record in zip(chunk, found, strict=True):
        prompt = list(given.messages) if given.messages is not None else "\n".join(given.texts)
        yield {"line": line, "prompt": prompt, **record}


def _checked(job: Job, path: Path, line: int, given: Input) -> None:
    try:
        job.writer.prompts.ids(_prompt(given))
    except DataError as error:
        raise DataError(str(error), path, line) from None


def _prompt(given: Input) -> Prompt:
    return given.messages if given.messages is not None else given.texts


def _identity(job: Job, wanted: Wanted, columns: Columns) -> dict[str, Any]:
    """What a run that goes on must share with the one that was stopped."""
    import hashlib

    from pairtune.pair.card import library_versions
    from pairtune.training.proofs import digest

    pair, writer = job.writer.pair, job.writer
    with wanted.inputs.open("rb") as file:
        inputs = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "inputs": inputs,
        "columns": asdict(columns),
        "decoding": writer.decoding.model_dump(mode="json"),
        "steer": wanted.steer,
        "vectors": digest({str(block): one for block, one in summed(writer.vectors).items()}),
        "positions": writer.positions,
        "raw": job.raw,
        "clean": job.clean,
        "alpha": wanted.alpha,
        "base": pair.base.fingerprint.weights,
        "deltas": [digest(layer.installed.state()) for layer in pair.layers],
        "versions": library_versions(),
    }


def _progress(count: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=count, desc="generate", unit=" prompts", file=sys.stderr, disable=not sys.stderr.isatty())


def _shown(record: dict[str, Any]) -> str:
    ended = {"length": " …", "end": "", "stop": ""}[record["ended"]]
    return f"{record['line']:>6}  {record['text']}{ended}"
