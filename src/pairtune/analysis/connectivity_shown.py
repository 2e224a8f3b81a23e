"""How connectivity is shown: what the moved delta does to the new base, and the lines with their barriers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairtune.analysis.behaviour import shown
from pairtune.analysis.connectivity import TUNED
from pairtune.analysis.path import MEANINGS as OF_PATH
from pairtune.analysis.path import chart
from pairtune.analysis.report import Block, Cell, Document, Figure, Note, Section, Table

if TYPE_CHECKING:
    from pairtune.analysis.connectivity import Connection, Connectivity

MEANINGS = {
    "alpha": "How much of the delta is added to the new base: 0 is the new base, 1 the moved variant.",
    "barrier": "How far the loss rises above the straight line between its values at the two ends, where it does so "
    "most. A small one means that both ends lie in one valley, which is where moved deltas work.",
}


def document(found: Connectivity) -> Document:
    """The report of a move."""
    facts = [("moved", found.moved), ("onto", found.onto), ("task", found.task)]
    return Document(f"{found.moved} onto {found.onto}", facts, _figures(found), [_section(found)])


def _section(found: Connectivity) -> Section:
    blocks: list[Block] = []
    meanings = {}
    if found.delta is not None:
        curve, losses = found.delta.curve, found.delta.losses
        label = "new base + alpha · delta"
        blocks.append(chart(f"{found.metric} of the {label}", found.metric, {label: curve}, found.delta.alphas))
        if found.loss != found.metric:
            blocks.append(chart(f"{found.loss} of the {label}", found.loss, {label: losses}, found.delta.alphas))
        meanings["alpha"] = MEANINGS["alpha"]
    rows = [(name, shown(found.metric, value)) for name, value in found.metrics.items()]
    blocks.append(Table(f"{found.metric} on {found.split}", ("model", found.metric), rows, numeric=(1,)))
    if found.lines:
        blocks.append(_lines(found))
        meanings["barrier"] = MEANINGS["barrier"]
    blocks += [Note(f"{what}: {why}.", missing=True) for what, why in found.missing.items()]
    seen, there = found.rows
    if seen < there:
        blocks.append(Note(f"{found.split}: {seen:,} of {there:,} rows, evenly spread (--all takes all)."))
    meanings |= {name: OF_PATH[name] for name in (found.metric, found.loss) if name in OF_PATH}
    return Section("move", "What the delta does on the new base", _lead(found), blocks, meanings)


def _lead(found: Connectivity) -> str:
    said = []
    if found.delta is not None:
        one, change = found.delta, found.delta.change
        ends = [one.losses.values[one.alphas.index(alpha)] for alpha in (0.0, 1.0)]
        values = [shown(found.metric, one.curve.values[one.alphas.index(alpha)]) for alpha in (0.0, 1.0)]
        word = "carries over" if change.high < 0 else "does harm" if change.low > 0 else "makes no clear difference"
        said.append(
            f"On {found.split} the delta {word}: the {found.loss} goes from {ends[0]:.3f} (the new base) to "
            f"{ends[1]:.3f} (95 % interval of the difference {change.low:+.3f} to {change.high:+.3f}), {found.metric} "
            f"from {values[0]} to {values[1]}."
        )
        if one.gap.low > 0:
            best = one.losses.values[one.alphas.index(one.best)]
            said.append(f"{one.best:g} times the delta would be clearly better ({found.loss} {best:.3f}).")
    if TUNED in found.metrics:
        said.append(_recovered(found))
    said += [_barred(name, one, found) for name, one in found.lines.items()]
    return " ".join(said) or "Nothing could be measured before tuning; see below."


def _barred(name: str, one: Connection, found: Connectivity) -> str:
    barrier = one.barrier
    if barrier.low <= 0:
        return f"From {name} the {found.loss} shows no clear barrier ({barrier.height:+.3f})."
    interval = f"95 % interval {barrier.low:.3f} to {barrier.high:.3f}"
    return f"From {name} it rises {barrier.height:.3f} above the chord at alpha = {barrier.alpha:g} ({interval})."


def _lines(found: Connectivity) -> Table:
    rows = []
    for name, one in found.lines.items():
        height = Cell(f"{one.barrier.height:.3f}", tone="bad" if one.barrier.low > 0 else "quiet")
        interval = f"{one.barrier.low:.3f} to {one.barrier.high:.3f}"
        middle = one.losses.values[len(found.alphas) // 2]
        ends = (f"{one.losses.values[0]:.3f}", f"{middle:.3f}", f"{one.losses.values[-1]:.3f}")
        rows.append((name, *ends, height, interval, f"{one.barrier.alpha:g}"))
    head = ("line", f"{found.loss} at 0", "half-way", "at 1", "barrier", "95 % interval", "at alpha")
    return Table("Lines between models", head, rows, numeric=range(1, 7))


def _recovered(found: Connectivity) -> str:
    if found.recovery is None:
        return "What it recovers of tuning there cannot be said: tuning changed nothing, or the new base has no head."
    return f"It recovers {found.recovery:.0%} of what tuning on the new base gains in {found.metric}."


def _figures(found: Connectivity) -> list[Figure]:
    figures = []
    if found.delta is not None:
        change = found.delta.change
        tone = "good" if change.high < 0 else "bad" if change.low > 0 else None
        figures.append(Figure(f"Change of the {found.loss}", f"{change.mean:+.3f}", "moved − new base", tone))
    if found.recovery is not None:
        figures.append(Figure("Recovered", f"{found.recovery:.0%}", "of the gain by tuning on the new base"))
    return figures
