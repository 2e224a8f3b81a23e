"""is each input in distribution? the log ratio and its controls"""

from __future__ import annotations

import json as json_
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairtune.cli import frame
from pairtune.errors import InputError

if TYPE_CHECKING:
    from pairtune.ood.scoring import Scorer


def score(
    pair: Annotated[str, typer.Argument(help="A pair's folder, a PEFT folder, or a fine-tuned checkpoint.")],
    inputs: Annotated[
        Path | None, typer.Argument(help="A file of texts (JSONL, CSV, Parquet, text; also .gz).")
    ] = None,
    data: Annotated[str | None, typer.Option(help="A task: how well test and OOD splits are told apart.")] = None,
    text: Annotated[str | None, typer.Option(help="The text column of the inputs.")] = None,
    detector: Annotated[list[str] | None, typer.Option(help="Detectors; `pairtune methods ood` lists them.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the scores here as JSONL instead of printing them.")] = None,
    base: Annotated[str | None, typer.Option(help="The base, where the pair does not name it.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout (JSONL for inputs).")] = False,
) -> None:
    """Score texts: a higher score means further from what the variant was tuned on."""
    if (inputs is None) == (data is None):
        raise InputError("give either a file of texts or --data TASK")
    if inputs is not None and not inputs.exists():
        raise InputError(f"{inputs}: there is no such file")
    from pairtune.ood import scoring
    from pairtune.pair.pair import Pair

    names = detector or list(scoring.DEFAULT)
    scoring.make_detectors(names)
    loaded = Pair.load(pair, base)
    if data is not None:
        from pairtune.data.task import Task

        found = scoring.separate(loaded, Task.load(data), names)
        frame.emit(found, json, text=table(found))
        return
    assert inputs is not None
    write(scoring.Scorer(loaded, names), inputs, text, out, json)


def write(scorer: Scorer, inputs: Path, column: str | None, out: Path | None, as_json: bool) -> None:
    """Score a file of any size and write a line a text, in order; a partial `--out` file never gets the final name."""
    rows = _scored(scorer, _numbered(inputs, column))
    if out is None:
        for record in rows:
            frame.emit(record, False, text=json_.dumps(record, ensure_ascii=False) if as_json else _line(record))
        return
    from pairtune.pair.disk import hidden_beside

    place = hidden_beside(out, "partial")
    try:
        with place.open("w", encoding="utf-8") as file:
            for record in rows:
                file.write(json_.dumps(record, ensure_ascii=False) + "\n")
        place.replace(out)
    finally:
        place.unlink(missing_ok=True)


def _numbered(inputs: Path, column: str | None) -> Iterator[tuple[int, str]]:
    """(line, text) of every row; the column is guessed from the first row."""
    from pairtune.data.readers import read
    from pairtune.errors import DataError
    from pairtune.registry import suggest

    for line, row in read(inputs):
        if column is None:
            texts = [name for name, value in row.items() if isinstance(value, str)]
            column = "text" if "text" in row else max(texts, key=lambda name: len(row[name]), default=None)
            if column is None:
                raise DataError(f"no text column (columns: {', '.join(row)}); name it with --text", inputs, line)
        if column not in row:
            hint = suggest(column, row)
            raise DataError(f"there is no column {column!r} (columns: {', '.join(row)}){hint}", inputs, line)
        if not isinstance(row[column], str):
            raise DataError(f"{column!r} is not a text but {type(row[column]).__name__}", inputs, line)
        yield line, row[column]


def _scored(scorer: Scorer, rows: Iterator[tuple[int, str]]) -> Iterator[dict[str, Any]]:
    from collections import deque

    waiting: deque[tuple[int, str]] = deque()

    def texts() -> Iterator[str]:
        for line, text in rows:
            waiting.append((line, text))
            yield text

    for found in scorer.stream(texts()):
        line, text = waiting.popleft()
        yield {"line": line, "text": text, "tokens": found.tokens, **found.scores}


def _line(record: dict[str, Any]) -> str:
    scores = [f"{name} {value:9.3f}" for name, value in record.items() if name not in ("line", "text", "tokens")]
    text = " ".join(record["text"].split())
    return f"{record['line']:>6}  {'  '.join(scores)}  {text if len(text) <= 70 else text[:69] + '…'}"


def table(found: dict[str, Any]) -> str:
    """Separation of every detector on every OOD split, with 95 % intervals."""
    rows = []
    for split, detectors in found.items():
        for name, one in detectors.items():
            area = "{:.3f} ({:.3f}-{:.3f})".format(*one.auroc)
            rows.append((split, name, area, f"{one.aupr_out[0]:.3f}", f"{one.aupr_in[0]:.3f}", f"{one.fpr95[0]:.3f}"))
    return frame.columns(rows, head=("split", "score", "AUROC (95 %)", "AUPR out", "AUPR in", "FPR at 95 % TPR"))
