"""Which rows changed: those that became right or wrong, or whose error or loss moved most, with both answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pairtune.analysis.report import Block, Item, Items, Note, Section

if TYPE_CHECKING:
    from pairtune.analysis.answers import Answers, Side, SplitAnswers
    from pairtune.data.task import Task

KEPT = 20  # rows a direction that are kept where every row moves a little
LISTED = 6  # rows a direction that are shown; the JSON has the others
MEANINGS = {
    "fixed": "The base was wrong on this row and the variant is right.",
    "broken": "The base was right on this row and the variant is wrong.",
    "in brackets": "The probability that the model gave to its answer.",
}
MOVED = {
    "better": "The rows whose error (or loss a token, in nats) fell most from base to variant.",
    "worse": "The rows whose error (or loss a token, in nats) rose most.",
}


@dataclass(frozen=True)
class Flip:
    """One row: where it stands, its text, the right answer, both models' answers and how far the row moved.

    `change` is that of log p(right answer), of the error, or of the loss a token.
    """

    row: int
    where: str
    text: str
    truth: str | None
    before: str
    after: str
    change: float


@dataclass(frozen=True)
class SplitFlips:
    """Rows that became better ("fixed", where an answer is right or wrong) and worse ("broken"), the clearest first.

    `other`: rows whose answer changed from one wrong one to another; None where answers are not right or wrong.
    """

    better: list[Flip]
    worse: list[Flip]
    other: int | None


@dataclass(frozen=True)
class Flips:
    """variant → split → flips. `exact`: whether answers are right or wrong, so that every flip is listed."""

    variants: dict[str, dict[str, SplitFlips]]
    exact: bool


def flips(answers: Answers) -> Flips:
    """The rows that changed, for every variant and split that has a base to compare with."""
    exact = answers.task.kind in ("classification", "multilabel")
    found: dict[str, dict[str, SplitFlips]] = {}
    for name in answers.variants:
        found[name] = {
            split: _exact(answers.task, one, name) if exact else _graded(answers.task, one, name)
            for split, one in answers.splits.items()
            if one.base is not None
        }
    return Flips(found, exact)


def _exact(task: Task, one: SplitAnswers, name: str) -> SplitFlips:
    before, after = one.sides[one.base or ""], one.sides[name]
    metric = "accuracy" if task.kind == "classification" else "exact_match"
    gap = after.items[metric] - before.items[metric]
    gain = before.items["nll"] - after.items["nll"] if "nll" in before.items else gap
    order = np.argsort(-np.abs(gain), kind="stable")
    said = _words(task, before), _words(task, after)
    better = [_flip(task, one, int(i), *said, float(gain[i])) for i in order if gap[i] > 0]
    worse = [_flip(task, one, int(i), *said, float(gain[i])) for i in order if gap[i] < 0]
    assert before.outputs is not None and after.outputs is not None
    if task.kind == "classification":
        moved = before.outputs.argmax(axis=1) != after.outputs.argmax(axis=1)
    else:
        moved = ((before.outputs >= 0.5) != (after.outputs >= 0.5)).any(axis=1)
    return SplitFlips(better, worse, int((moved & (gap == 0)).sum()))


def _graded(task: Task, one: SplitAnswers, name: str) -> SplitFlips:
    before, after = one.sides[one.base or ""], one.sides[name]
    metric = "absolute_error" if task.kind == "regression" else "nll"
    gap = after.items[metric] - before.items[metric]
    order = [int(i) for i in np.argsort(gap, kind="stable")]
    said = _words(task, before), _words(task, after)
    better = [_flip(task, one, i, *said, float(gap[i])) for i in order[:KEPT] if gap[i] < 0]
    worse = [_flip(task, one, i, *said, float(gap[i])) for i in order[::-1][:KEPT] if gap[i] > 0]
    return SplitFlips(better, worse, None)


def _flip(task: Task, one: SplitAnswers, i: int, before: list[str], after: list[str], change: float) -> Flip:
    row = one.rows[i]
    return Flip(i, one.rows.where(i), text_of(task, row), _truth(task, row), before[i], after[i], change)


def text_of(task: Task, row: Mapping[str, Any]) -> str:
    """A row's text as people read it: columns joined, a conversation as its turns."""
    if task.is_chat:
        return "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in row[task.text[0]])
    return task.prompt(row)


def _truth(task: Task, row: Mapping[str, Any]) -> str | None:
    target = task.target(row)
    if target is None:
        return None
    if task.kind == "classification":
        return task.labels[target]
    if task.kind == "multilabel":
        return ", ".join(task.labels[i] for i in target) or "none"
    return f"{target:.4g}" if isinstance(target, float) else str(target)


def _words(task: Task, side: Side) -> list[str]:
    """What a model answers, a row."""
    if task.kind == "classification":
        assert side.outputs is not None
        chosen = side.outputs.argmax(axis=1)
        return [
            f"{task.labels[label]} ({np.exp(row[label]):.0%})" for label, row in zip(chosen, side.outputs, strict=True)
        ]
    if task.kind == "multilabel":
        assert side.outputs is not None
        return [", ".join(task.labels[i] for i in np.flatnonzero(row >= 0.5)) or "none" for row in side.outputs]
    if side.outputs is not None:
        return [f"{row[0]:.4g}" for row in side.outputs]
    return [f"{loss:.2f} nats a token" for loss in side.items["nll"]]


# -- how it is shown -------------------------------------------------------------------------------------------------


def section(found: Flips) -> Section:
    """The section: counts in the lead, then lists of rows with both answers."""
    blocks: list[Block] = []
    leads = []
    words = ("fixed", "broken") if found.exact else ("better", "worse")
    for name, splits in found.variants.items():
        for split, one in splits.items():
            who = f"{name} on {split}" if len(found.variants) > 1 else f"On {split}"
            if found.exact:
                rest = f", {one.other} changed from one wrong answer to another" if one.other else ""
                leads.append(f"{who}: {len(one.better)} fixed, {len(one.worse)} broken{rest}.")
            for word, rows in zip(words, (one.better, one.worse), strict=True):
                if rows:
                    items = [_item(flip, word) for flip in rows[:LISTED]]
                    more = len(rows) - len(items) if found.exact else 0
                    blocks.append(Items(f"{who}: {word}", items, more))
    if not any(found.variants.values()):
        blocks.append(Note("Not here: the base has no answers of its own to compare with.", missing=True))
    elif not blocks:
        leads.append("No row changed.")
    if not found.exact and blocks:
        leads.append("Every row moves a little; these moved most.")
    title = "Rows that flipped" if found.exact else "Rows that moved most"
    return Section("flips", title, " ".join(leads), blocks, MEANINGS if found.exact else MOVED)


def _item(flip: Flip, word: str) -> Item:
    good = word in ("fixed", "better")
    says: list[tuple[str, str, str | None]] = [
        ("base", flip.before, "bad" if good else "good"),
        ("variant", flip.after, "good" if good else "bad"),
    ]
    if flip.truth is not None:
        says.append(("right", flip.truth, None))
    return Item(flip.text, says)
