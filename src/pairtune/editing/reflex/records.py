"""Role-play records: every claim becomes one turn that asks a fact-checker for a verdict, and the turn that answers.

    format       the prompt holds          the answer
    c->v         claim                     verdict
    c->v;exp     claim                     verdict, a line end, the explanation
    c;e->v       claim and evidence        verdict
    c;e->v;exp   claim and evidence        verdict, a line end, the explanation

The words are ours: the paper's prompts are not known. A row has `messages` where the tokenizer has a chat template, for
tuning, else `completion`; and always `prompt` and `verdict`, which `pairtune steer` reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.data.verbalise import words
from pairtune.errors import InputError
from pairtune.pair.staging import staged_folder

if TYPE_CHECKING:
    from pairtune.data.split import Split
    from pairtune.data.task import Task

VERDICT = "verdict"


def write_records(
    task: Task, out: Path, chat: bool, evidence: str | None = None, explanation: str | None = None
) -> dict[str, int]:
    """Write every split of a task of claims as records, one JSON line each; whole or not at all.

    Args:
        task: claims and their verdicts (a classification task of one text column).
        chat: whether the tokenizer has a chat template.
        evidence, explanation: their columns; which of them are given decides the format.

    Returns: split → rows.

    Raises `InputError` for another kind of task, `DataError` for a column that is not there or holds no text.
    """
    if task.kind != "classification" or len(task.text) != 1:
        raise InputError(f"{task.name}: role-play records are made of one column of claims and one of verdicts")
    for split in task.splits.values():
        for column in (evidence, explanation):
            if column is not None:
                split.require(column)
    counts = {}
    with staged_folder(out) as staging:
        for name, split in task.splits.items():
            path = staging / f"{name}.jsonl"
            path.parent.mkdir(exist_ok=True)
            rows = [_record(task, split, i, chat, evidence, explanation) for i in range(len(split))]
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows if row is not None]
            path.write_text("".join(lines), encoding="utf-8")
            counts[name] = len(lines)
    return counts


def question(labels: list[str], claim: str, evidence: str | None, explained: bool) -> str:
    """What the fact-checker is asked."""
    lines = [f"You are a fact-checker. Is the claim {' or '.join(map(words, labels))}?", f"Claim: {claim}"]
    lines += [] if evidence is None else [f"Evidence: {evidence}"]
    lines.append("Give the verdict first, then your reasons." if explained else "Give the verdict.")
    return "\n".join(lines)


def _record(
    task: Task, split: Split, i: int, chat: bool, evidence: str | None, explanation: str | None
) -> dict[str, Any] | None:
    """One row; None for a row of an OOD split without a verdict of the task."""
    row, target = split[i], task.target(split[i])
    if target is None:
        return None
    label = task.labels[target]
    asked = question(task.labels, row[task.text[0]], _text(split, i, row, evidence), explanation is not None)
    reasons = _text(split, i, row, explanation)
    answer = words(label) if reasons is None else f"{words(label)}\n{reasons}"
    if chat:
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        return {"messages": turns, "prompt": asked, VERDICT: label}
    return {"prompt": asked, "completion": answer, VERDICT: label}


def _text(split: Split, i: int, row: Mapping[str, Any], column: str | None) -> str | None:
    if column is None:
        return None
    if not isinstance(row.get(column), str):
        raise split.error(i, f"column {column!r}: expected text, found {type(row.get(column)).__name__}")
    return row[column]
