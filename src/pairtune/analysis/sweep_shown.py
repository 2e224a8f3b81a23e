"""How a sweep is shown: the curves, the points that matter, and what the path is worth out of distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pairtune.analysis.behaviour import MEANINGS as OF_ROWS
from pairtune.analysis.behaviour import RISING, SHARES, shown
from pairtune.analysis.path import MEANINGS as OF_PATH
from pairtune.analysis.path import chart
from pairtune.analysis.report import Block, Cell, Document, Figure, Note, Section, Table, titled

if TYPE_CHECKING:
    from pairtune.analysis.sweep import Barrier, Gain, Point, Sweep
    from pairtune.pair.paired import Difference

MEANINGS = {
    "alpha": "The place on the straight line between the two states of the weights: 0 is the one, 1 the other.",
    "chosen": "The point that is best on ID validation (of equal ones, the one with the lower loss); no OOD row is "
    "looked at for it. Its validation figure is the best of several, and so a little too good.",
    "oracle": "The point that is best on the OOD rows themselves: a bound for any choice, not a result.",
    "gain": "The mean over the OOD splits at a point minus that at the better end; above 0 the path is worth going.",
    "barrier": "How far the loss rises above the straight line between its values at the two ends, where it does so "
    "most. Without a barrier both ends lie in one valley, in which averaging weights is safe.",
}


def document(found: Sweep) -> Document:
    """The report of a sweep."""
    facts = [("from", found.start), ("to", found.end), ("task", found.task)]
    sections = [_path(found)]
    if found.layers is not None:
        from pairtune.analysis.layers_shown import section as of_layers

        sections.append(of_layers(found.layers))
    return Document(f"{found.start} → {found.end}", facts, _figures(found), sections)


def _path(found: Sweep) -> Section:
    metric = found.metric
    blocks: list[Block] = [chart(titled(f"{metric} along the path", "", False), metric, found.curves, found.alphas)]
    if found.loss != metric:
        blocks.append(chart(titled(f"{found.loss} along the path", "", False), found.loss, found.losses, found.alphas))
    points = [(name, one) for name, one in (("chosen", found.chosen), ("oracle", found.oracle)) if one is not None]
    if points:
        blocks.append(_points(points, found))
    blocks.append(_barriers(found))
    if found.chosen is None:
        blocks.append(Note("No alpha is picked: the task has no validation split with targets.", missing=True))
    if found.oracle is None:
        blocks.append(Note("No gain is given: the task has no OOD split with targets.", missing=True))
    blocks += [Note(f"{split}: {why}.", missing=True) for split, why in found.skipped.items()]
    for split, (seen, there) in found.sampled.items():
        if seen < there:
            blocks.append(Note(f"{split}: {seen:,} of {there:,} rows, evenly spread (--all takes all)."))
    used = {"alpha", "barrier", *(name for name, _ in points), *({"gain"} if found.oracle else ())}
    meanings = {name: words for name, words in MEANINGS.items() if name in used}
    of_rows = OF_ROWS if found.loss != metric else OF_PATH
    meanings |= {name: of_rows[name] for name in (metric, found.loss) if name in of_rows}
    return Section("path", "The path between the two ends", _lead(found), blocks, meanings)


def _lead(found: Sweep) -> str:
    said = []
    if found.chosen is not None:
        one, ends = found.chosen, found.curves["validation"].values
        value = shown(found.metric, one.values["validation"])
        ends_said = f"{shown(found.metric, ends[0])} at 0, {shown(found.metric, ends[-1])} at 1"
        where = "that is the end itself" if one.alpha in (0.0, 1.0) else ends_said
        said.append(f"On validation the best point is alpha = {one.alpha:g} ({found.metric} {value}; {where}).")
        if one.gain is not None:
            said.append(_gained(one, found))
    if found.oracle is not None and found.oracle.gain is not None and found.oracle.gain.mean <= 0:
        said.append("Out of distribution no point of the path is better than its better end.")
    if "validation" in found.barriers:
        said.append(_barred(found.barriers["validation"], found.loss))
    return " ".join(said)


def _gained(one: Point, found: Sweep) -> str:
    worth = one.gain
    assert worth is not None
    end = found.end if worth.end else found.start
    splits = "the OOD split" if len(worth.splits) == 1 else f"the mean of {len(worth.splits)} OOD splits"
    if one.alpha == worth.end:
        return f"On {splits} that is the better end, too."
    interval = f"95 % interval {_signed(found.metric, worth.low)} to {_signed(found.metric, worth.high)}"
    if worth.low <= 0 <= worth.high:
        return (
            f"On {splits} it is not clearly different from the better end, {end} ({_gain(worth, found)}; {interval})."
        )
    word = "better" if worth.mean > 0 else "worse"
    return f"On {splits} it is {word} than the better end, {end}: {_gain(worth, found)} ({interval})."


def _barred(one: Barrier, loss: str) -> str:
    if one.low <= 0:
        return f"The {loss} of validation shows no clear barrier ({one.height:+.3f} at alpha = {one.alpha:g})."
    interval = f"95 % interval {one.low:.3f} to {one.high:.3f}"
    where = f"at alpha = {one.alpha:g} the {loss} of validation"
    return f"There is a barrier: {where} lies {one.height:.3f} above the chord ({interval})."


def _points(points: Sequence[tuple[str, Point]], found: Sweep) -> Table:
    rows = []
    for name, one in points:
        for split, (from_start, from_end) in one.changes.items():
            value = shown(found.metric, one.values[split])
            rows.append(
                (name, f"{one.alpha:g}", split, value, *(_change(c, found.metric) for c in (from_start, from_end)))
            )
        if one.gain is not None and len(one.gain.splits) > 1:
            worth = one.gain
            interval = f"({_signed(found.metric, worth.low)} to {_signed(found.metric, worth.high)})"
            tone = "quiet" if worth.low <= 0 <= worth.high else "good" if worth.mean > 0 else "bad"
            cell = Cell(f"{_gain(worth, found)} {interval}", tone=tone)
            rows.append(
                (name, f"{one.alpha:g}", "gain on the OOD mean", "", *(("", cell) if worth.end else (cell, "")))
            )
    head = ("point", "alpha", "split", found.metric, f"minus {found.start} (95 %)", f"minus {found.end} (95 %)")
    return Table("The points against the two ends, on the same rows", head, rows, numeric=(1, 3, 4, 5))


def _barriers(found: Sweep) -> Table:
    rows = []
    for split, one in found.barriers.items():
        tone = "bad" if one.low > 0 else "quiet"
        rows.append((split, Cell(f"{one.height:.3f}", tone=tone), f"{one.low:.3f} to {one.high:.3f}", f"{one.alpha:g}"))
    head = ("split", f"{found.loss} above the chord", "95 % interval", "at alpha")
    return Table("Barriers", head, rows, numeric=(1, 2, 3))


def _figures(found: Sweep) -> list[Figure]:
    figures = []
    if found.chosen is not None:
        value = shown(found.metric, found.chosen.values["validation"])
        figures.append(Figure("alpha, by validation", f"{found.chosen.alpha:g}", f"{found.metric} {value}"))
        worth = found.chosen.gain
        if worth is not None:
            clear = not worth.low <= 0 <= worth.high
            tone = ("good" if worth.mean > 0 else "bad") if clear else None
            below = f"against {found.end if worth.end else found.start}, the better end"
            figures.append(Figure("Gain out of distribution", _gain(worth, found), below, tone))
    if "validation" in found.barriers:
        one = found.barriers["validation"]
        tone = "bad" if one.low > 0 else None
        figures.append(Figure("Barrier", f"{one.height:.3f}", f"{found.loss}, at alpha = {one.alpha:g}", tone))
    return figures


def _gain(worth: Gain, found: Sweep) -> str:
    unit = " pts" if found.metric in SHARES else ""
    return f"{_signed(found.metric, worth.mean)}{unit}"


def _change(one: Difference, metric: str) -> Cell:
    text = f"{shown(metric, one.mean, True)} ({shown(metric, one.low, True)} to {shown(metric, one.high, True)})"
    return Cell(text, tone=one.tone(metric in RISING) or "quiet")


def _signed(metric: str, value: float) -> str:
    return shown(metric, value, True)
