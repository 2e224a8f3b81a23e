"""A file of inputs through `pairtune score`: the record of each input, and how it is printed."""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.cli import frame
from pairtune.cli._columns import Columns, Files
from pairtune.errors import InputError

if TYPE_CHECKING:
    from pairtune.ood.calibration import Threshold
    from pairtune.ood.explain import Explanation
    from pairtune.ood.inputs import Input
    from pairtune.ood.scoring import Scorer
    from pairtune.pair.pair import Pair


@dataclass(frozen=True)
class Wanted:
    """What was asked for on the command line."""

    inputs: Path
    text: list[str] | None
    answer: str | None
    mark: bool
    explain: bool
    out: Path | None
    restart: bool
    json: bool


def run(pair: Pair, folder: Path, wanted: Wanted, names: list[str] | None, settings: dict[str, Any]) -> None:
    """Score every input; with `out` into a file, else on stdout."""
    scorer, threshold = _scorer(pair, folder, wanted, names, settings)
    scorer.require_fit()
    columns: Any = Columns.of(wanted.text, wanted.answer, pair, any(one.answers for one in scorer.detectors.values()))
    if pair.base.modality.name == "text":
        columns = columns.settled(wanted.inputs)
    else:
        columns = Files(pair.base.modality.name, _one(wanted.text))
    count = sum(1 for _ in columns.rows(wanted.inputs))  # every row is checked before the first one costs time
    records = Records(scorer, threshold, wanted.explain)
    with _progress(count) as bar:
        if wanted.out is None:
            for record in records.of(columns.rows(wanted.inputs)):
                bar.update()
                text = json_.dumps(record, ensure_ascii=False) if wanted.json else _shown(record, records)
                frame.emit(record, False, text=text)
            return
        from pairtune.ood.files import write_scored

        identity = _identity(scorer, threshold, wanted, columns)
        rows = columns.rows(wanted.inputs)
        done = write_scored(
            wanted.out, rows, records.of, identity, restart=wanted.restart, progress=lambda n: bar.update(n) and None
        )
    resumed = f" ({done:,} of them by the run that was stopped)" if done else ""
    report = {"out": str(wanted.out), "scored": count, "resumed_at": done}
    frame.emit(report, wanted.json, text=f"{count:,} inputs scored into {wanted.out}{resumed}")


def _scorer(
    pair: Pair, folder: Path, wanted: Wanted, names: list[str] | None, settings: dict[str, Any]
) -> tuple[Scorer, Threshold | None]:
    """The scorer, and the threshold if one of its detectors is the calibrated one."""
    from pairtune.ood import calibration
    from pairtune.ood.scoring import Scorer

    threshold = calibration.required(pair) if wanted.mark else calibration.stored(pair)
    if threshold is None:
        return Scorer(pair, names, settings=settings), None
    if names is None:
        return calibration.calibrated(pair, folder, threshold), threshold
    scorer = Scorer(pair, names, threshold.max_length, settings=settings, new_tokens=threshold.new_tokens)
    same = scorer.detectors.get(threshold.detector)
    if same is not None and same.settings.model_dump(mode="json") == threshold.settings:
        calibration.load_fitted(scorer, folder, threshold)
        return scorer, threshold
    if wanted.mark:
        raise InputError(f"--mark: the pair's threshold is one of {threshold.detector}, which is not asked for here")
    return Scorer(pair, names, settings=settings), None


def _one(names: list[str] | None) -> str | None:
    if names is not None and len(names) > 1:
        raise InputError(f"--text: one column names the files, found {' and '.join(names)}")
    return names[0] if names else None


class Records:
    """What is said of each input.

    Args:
        explain: put the tokens that carried the score of the first detector into the record.
    """

    def __init__(self, scorer: Scorer, threshold: Threshold | None, explain: bool):
        self.scorer, self.threshold = scorer, threshold
        self.explained = (threshold.detector if threshold else next(iter(scorer.detectors))) if explain else None
        if self.explained is not None:
            from pairtune.ood.explain import explainable

            explainable(scorer, self.explained)
        self.called = "text" if scorer.pair.base.modality.name == "text" else "file"

    def of(self, rows: Iterable[tuple[int, Input]]) -> Iterator[dict[str, Any]]:
        """Line, text, tokens, scores by detector, `out` by the threshold, the answer, the tokens that carried it."""
        from pairtune.ood.batching import AT_ONCE

        source = iter(rows)
        while chunk := list(islice(source, AT_ONCE)):
            given = [one for _, one in chunk]
            explanations = self._explanations(given)
            for (line, one), found in zip(chunk, self.scorer.stream(given), strict=True):
                record = {"line": line, self.called: self.scorer.batcher.reader.text(one), "tokens": found.tokens}
                if found.answer is not None:
                    record["answer"] = found.answer
                record |= found.scores
                if self.threshold is not None:
                    record["out"] = found.scores[self.threshold.detector] > self.threshold.value
                if self.explained is not None:
                    record["explained"] = self._explained(next(explanations))
                yield record

    def _explanations(self, given: list[Input]) -> Iterator[Explanation]:
        from pairtune.ood.explain import explain

        return explain(self.scorer, self.explained, given) if self.explained is not None else iter(())

    def _explained(self, found: Explanation) -> dict[str, Any]:
        return {"detector": self.explained, "score": found.score, "tokens": [asdict(token) for token in found.tokens]}


def _identity(scorer: Scorer, threshold: Threshold | None, wanted: Wanted, columns: Columns | Files) -> dict[str, Any]:
    """What a run that goes on must share with the one that was stopped."""
    import hashlib

    from pairtune.ood.calibration import delta_digest
    from pairtune.pair.card import library_versions

    if isinstance(columns, Files):
        from pairtune.ood.media import content_of

        inputs: Any = content_of(columns.rows(wanted.inputs))
    else:
        with wanted.inputs.open("rb") as file:
            inputs = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "inputs": inputs,
        "columns": asdict(columns),
        "detectors": {name: one.settings.model_dump(mode="json") for name, one in scorer.detectors.items()},
        "threshold": threshold.model_dump(mode="json") if threshold else None,
        "explain": wanted.explain,
        "pair": delta_digest(scorer.pair),
        "max_length": scorer.batcher.max_length,
        "versions": library_versions(),
    }


def _progress(count: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=count, desc="score", unit=" inputs", file=sys.stderr, disable=not sys.stderr.isatty())


def _shown(record: dict[str, Any], records: Records) -> Any:
    scores = [f"{name} {record[name]:9.3f}" for name in records.scorer.detectors]
    mark = [] if records.threshold is None else ["out" if record["out"] else "in "]
    text = " ".join(record[records.called].split())
    line = f"{record['line']:>6}  {'  '.join([*mark, *scores])}  {text if len(text) <= 70 else text[:69] + '…'}"
    return _coloured(line, record) if "explained" in record else line


def _coloured(line: str, record: dict[str, Any]) -> Any:
    """The text with its tokens on red (speaks for outside) or green (for inside) ground, and the strongest in words."""
    from rich.text import Text

    from pairtune.analysis.typicality import visible

    tokens = record["explained"]["tokens"]
    most = max((abs(token["contribution"]) for token in tokens), default=0.0) or 1.0
    found = Text(line + "\n        ")
    for part, source in (("question", record["text"]), ("answer", record.get("answer") or "")):
        at = 0
        placed = [one for one in tokens if one["part"] == part and one["start"] is not None]
        found.append(" → " if part == "answer" and placed else "")
        for one in placed:
            found.append(source[at : one["start"]] if one["start"] > at else "")
            share = one["contribution"] / most
            strength = round(40 + 150 * abs(share))
            colour = f"rgb({strength},30,30)" if share > 0 else f"rgb(20,{strength},40)"
            said = source[max(at, one["start"]) : one["end"]]
            found.append(said, style=f"white on {colour}" if abs(share) > 0.1 else "")
            at = max(at, one["end"])
        found.append(source[at:] if placed else "")
    strongest = sorted(tokens, key=lambda one: -abs(one["contribution"]))[:6]
    words = "  ".join(f"{visible(one['token'])!r} {one['contribution']:+.3f}" for one in strongest)
    total = sum(one["contribution"] for one in tokens)
    return found.append(f"\n        {words or 'no token is scored'}  (all {len(tokens)}: {total:+.3f})")
