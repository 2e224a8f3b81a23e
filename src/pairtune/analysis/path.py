"""The path from base to variant: metrics of base + alpha · delta, from 0 (the base) over 1 (the variant) to 1.2."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pairtune.analysis.answers import BASE, ask, evenly, scorable
from pairtune.analysis.behaviour import RISING, shown
from pairtune.analysis.predict import Reader
from pairtune.analysis.report import Block, Lines, Note, Section, Series, Table, titled
from pairtune.errors import MissingView
from pairtune.pair.paired import compare

if TYPE_CHECKING:
    from pairtune.data.split import Split
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair

Items = dict[str, np.ndarray]  # metric → its rows' values
Parts = dict[str, "tuple[Task, Split]"]  # split → the task it is read with, and its rows
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
GENERAL = "general text"
MAIN = {
    "classification": "accuracy",
    "multilabel": "exact_match",
    "regression": "absolute_error",
    "lm": "nll",
    "seq2seq": "nll",
}
MEANINGS = {
    "alpha": "How much of the delta is applied: 0 is the base, 1 the variant, 1.2 goes beyond it.",
    "nll": "Mean of −log p(token) in nats over the rows; lower is better.",
    "accuracy": "Share of rows whose most probable label is the right one.",
    "absolute_error": "Mean distance of prediction and target.",
    "exact_match": "Share of rows with every label right.",
    "band": "The 95 % interval of each point (bootstrap over rows). A point between base and variant that is as good "
    "on validation and better elsewhere costs less forgetting for the same gain.",
}


@dataclass(frozen=True)
class Curve:
    """One split along the path: its metric, the value at each alpha, and the values' 95 % intervals."""

    metric: str
    values: list[float]
    low: list[float]
    high: list[float]
    rows: int


@dataclass(frozen=True)
class Path:
    """variant → split → curve over `alphas`; `missing`: variant → why its delta has no fractions.

    `sampled`: split → (rows that were scored, rows that there are).
    """

    alphas: list[float]
    curves: dict[str, dict[str, Curve]]
    missing: dict[str, str] = field(default_factory=dict)
    sampled: dict[str, tuple[int, int]] = field(default_factory=dict)


@contextlib.contextmanager
def point(pair: Pair, alpha: float) -> Iterator[None]:
    """base + alpha · delta while inside: at 0 the base itself and at 1 the variant itself, bit for bit.

    Raises `MissingView` where the delta has no fractions.
    """
    if alpha == 1.0:
        yield
    else:
        with pair.off() if alpha == 0.0 else pair.at(alpha):
            yield


def refusal(pair: Pair) -> str | None:
    """Why this pair has no path; None where it has one."""
    if pair.base.new_names:
        return "the head is new, so that the path would begin at a base with a random head"
    for layer in pair.layers:
        if "scale" not in layer.installed.provides:
            tuner = layer.record.get("tuner") or {}
            return f"a {tuner.get('name', 'module')} delta has no fractions of itself"
    return None


def path(
    pairs: Mapping[str, Pair],
    task: Task | None,
    general: Task | None,
    most: int | None,
    step: Callable[[str], None] = lambda _: None,
    asked: Mapping[str, tuple[Split, Mapping[str, Items]]] | None = None,
) -> Path:
    """Metrics along the path on validation, test and OOD splits, and the loss on general text.

    Args:
        asked: split → (its rows, model → what it said of them) that are known already, so that the path's ends (the
            base and each variant by its name) need not be computed again.
        most: the most rows of a split, evenly spread over it; None: all.
    """
    found, asked = Path(list(ALPHAS), {}), asked or {}
    ends: dict[tuple[str, str], Items] = {}
    parts: Parts = {}
    if task is not None:
        parts |= {name: (task, rows) for name, rows in scored_splits(task).items()}
    if general is not None:
        parts[GENERAL] = (general, general.split("test"))
    found.sampled.update({name: (len(rows), len(rows)) for name, (_, rows) in parts.items()})
    for name, (one, rows) in parts.items():
        rows, values = asked.get(name, (rows, {}))
        places = evenly(len(rows), most)
        parts[name] = (one, rows.select(places))
        found.sampled[name] = (len(places), found.sampled[name][1])
        for model, items in values.items():
            ends[name, model] = {metric: each[places] for metric, each in items.items()}
    for name, pair in pairs.items():
        why = refusal(pair) if parts else "there is nothing to measure it on"
        if why is None:
            try:
                known = {
                    (split, alpha): ends[split, model]
                    for split in parts
                    for alpha, model in ((0.0, BASE), (1.0, name))
                    if (split, model) in ends
                }
                found.curves[name] = curves(pair, parts, lambda text, name=name: step(f"{name} at {text}"), known)
            except MissingView as error:
                why = str(error)
        if why is not None:
            found.missing[name] = why
    return found


def scored_splits(task: Task) -> dict[str, Split]:
    """The rows that have a target of every split but the training split; a split with none is left out."""
    found = {name: scorable(task, task.split(name))[0] for name in task.splits if name != "train"}
    return {name: rows for name, rows in found.items() if len(rows)}


def curves(
    pair: Pair,
    parts: Parts,
    step: Callable[[str], None] = lambda _: None,
    known: Mapping[tuple[str, float], Items] | None = None,
) -> dict[str, Curve]:
    """One pair's curve of the main metric on each of some splits; `known` as in `along`."""
    found = along(pair, parts, ALPHAS, lambda alpha: point(pair, alpha), step, known)
    return {name: curve(MAIN[parts[name][0].kind], items) for name, items in found.items()}


def along(
    pair: Pair,
    parts: Parts,
    alphas: Sequence[float],
    at: Callable[[float], AbstractContextManager[None]],
    step: Callable[[str], None] = lambda _: None,
    known: Mapping[tuple[str, float], Items] | None = None,
) -> dict[str, Items]:
    """Split → metric → [A, N] values of its N rows at A points.

    Args:
        pair: whose side that is on reads the rows.
        at: makes that side the point while inside.
        known: (split, alpha) → metric → [N] values that need not be computed.
    """
    known = known or {}
    said: dict[str, list[Items]] = {name: [] for name in parts}
    for alpha in alphas:
        step(f"alpha {alpha:g}")
        with at(alpha):
            for name, (task, rows) in parts.items():
                there = known.get((name, alpha))
                said[name].append(ask(Reader(pair, task), rows).items if there is None else there)
    return {
        name: {metric: np.stack([one[metric] for one in items]) for metric in items[0]} for name, items in said.items()
    }


def curve(metric: str, items: Items) -> Curve:
    """One metric's values [A, N] as means with their intervals."""
    values = items[metric]
    bounds = [compare(np.zeros_like(one), one) for one in values]
    means = [float(one.mean()) for one in values]
    return Curve(metric, means, [one.low for one in bounds], [one.high for one in bounds], values.shape[1])


# -- how it is shown -------------------------------------------------------------------------------------------------


def section(found: Path) -> Section:
    """The section: a chart a variant and metric."""
    blocks: list[Block] = []
    leads = []
    several = len(found.curves) + len(found.missing) > 1
    for name, splits in found.curves.items():
        leads.append(_lead(name if several else "the variant", splits, found.alphas))
        for metric in dict.fromkeys(curve.metric for curve in splits.values()):
            chosen = {split: curve for split, curve in splits.items() if curve.metric == metric}
            blocks.append(chart(titled(f"along the path: {metric}", name, several), metric, chosen, found.alphas))
    blocks += [Note(titled(f"no path: {why}.", name, several), missing=True) for name, why in found.missing.items()]
    if found.curves:
        for split, (seen, there) in found.sampled.items():
            if seen < there:
                blocks.append(Note(f"{split}: {seen:,} of {there:,} rows, evenly spread (--all takes all)."))
    used = {curve.metric for splits in found.curves.values() for curve in splits.values()}
    meanings = {key: words for key, words in MEANINGS.items() if key in used or key in ("alpha", "band")}
    lead = " ".join(leads) or "Not measured."
    return Section("path", "The path from base to variant", lead, blocks, meanings if found.curves else {})


def _lead(who: str, splits: Mapping[str, Curve], alphas: list[float]) -> str:
    name = "validation" if "validation" in splits else next(iter(splits))
    curve = splits[name]
    pick = max if curve.metric in RISING else min
    best = pick(range(len(alphas)), key=lambda i: curve.values[i])
    last = curve.values[alphas.index(1.0)]
    if alphas[best] == 1.0:
        return (
            f"On {name}, no point of the path is better than {who} itself ({curve.metric} {shown(curve.metric, last)})."
        )
    within = curve.low[best] <= last <= curve.high[best]
    close = ", within its interval of" if within else " against"
    return (
        f"On {name}, the best point is alpha = {alphas[best]:g} "
        f"({curve.metric} {shown(curve.metric, curve.values[best])}){close} {who}'s {shown(curve.metric, last)}."
    )


def chart(title: str, metric: str, splits: Mapping[str, Curve], alphas: list[float]) -> Lines:
    """One metric's curves as a chart with its table."""
    series = [Series(split, alphas, curve.values, curve.low, curve.high) for split, curve in splits.items()]
    rows = [
        (f"{alpha:g}", *(shown(metric, curve.values[i]) for curve in splits.values())) for i, alpha in enumerate(alphas)
    ]
    head = ("alpha", *(f"{split} ({curve.rows})" for split, curve in splits.items()))
    table = Table(f"{title} (rows in brackets)", head, rows, numeric=range(len(head)))
    said = "; ".join(
        f"{split} from {shown(metric, curve.values[0])} at 0 to {shown(metric, curve.values[alphas.index(1.0)])} at 1"
        for split, curve in splits.items()
    )
    alt = f"{metric} of base plus alpha times delta: {said}."
    marks = ((0.0, "base"), (1.0, "variant"))
    return Lines(title, "alpha", metric, series, alt, table, marks=marks)
