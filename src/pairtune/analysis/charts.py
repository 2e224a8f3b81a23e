"""The geometry of a page's charts: scales, ticks and paths; the templates only write them down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pairtune.analysis.report import Forest, Lines, Series
from pairtune.pair.paired import Difference

WIDTH, HEIGHT = 440, 280
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 12, 42
FLOOR = 1e-4  # of a logarithmic axis
DOTS = 20  # points of a series up to which each is marked
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Line:
    """One series in pixels: its path, its band (empty without an interval), its dots as (x, y, what it says)."""

    name: str
    path: str
    band: str
    dots: list[tuple[float, float, str]]


@dataclass(frozen=True)
class Drawn:
    """A line chart in pixels. Ticks are (place, words); `diagonal` is a path or empty; marks are (x, word, anchor)."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line]
    diagonal: str
    marks: list[tuple[float, str, str]]


def drawn(chart: Lines) -> Drawn:
    """A line chart's geometry."""
    xs = [x for one in chart.series for x in one.x]
    ys = [y for one in chart.series for y in (*one.y, *(one.low or ()), *(one.high or ())) if math.isfinite(y)]
    if chart.unit:
        x_ends = y_ends = (0.0, 1.0)
        x_ticks = y_ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    else:
        x_ticks = ticks(min(xs, default=0.0), max(xs, default=1.0), 6)
        x_ends = (min(xs, default=0.0), max(xs, default=1.0))
        y_ticks = decades(ys) if chart.log else ticks(min(ys, default=0.0), max(ys, default=1.0), 5)
        y_ends = (y_ticks[0], y_ticks[-1])
    x = _scale(*x_ends, LEFT, WIDTH - RIGHT)
    y = _scale(*y_ends, HEIGHT - BOTTOM, TOP, chart.log)
    inside = [t for t in x_ticks if x_ends[0] - 1e-9 <= t <= x_ends[1] + 1e-9]
    return Drawn(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
        x_ticks=[(round(x(t), 1), f"{t:g}") for t in inside],
        y_ticks=[(round(y(t), 1), f"{t:g}") for t in y_ticks],
        lines=[_line(one, x, y) for one in chart.series],
        diagonal=f"M{x(0):.1f},{y(0):.1f}L{x(1):.1f},{y(1):.1f}" if chart.unit else "",
        marks=[(round(x(at), 1), word, "start" if x(at) < WIDTH / 2 else "end") for at, word in chart.marks],
    )


def _line(one: Series, x: Scale, y: Scale) -> Line:
    points = [(x(a), y(b), a, b) for a, b in zip(one.x, one.y, strict=True) if math.isfinite(b)]
    band = ""
    if one.low is not None and one.high is not None:
        there = [(x(a), y(b)) for a, b in zip(one.x, one.high, strict=True)]
        back = [(x(a), y(b)) for a, b in zip(one.x, one.low, strict=True)]
        band = _path([*there, *reversed(back)]) + "Z"
    dots = [(round(a, 1), round(b, 1), f"{one.name}: {p:.3g}, {q:.3g}") for a, b, p, q in points]
    return Line(one.name, _path([(a, b) for a, b, _, _ in points]), band, dots if len(dots) <= DOTS else [])


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in points) if points else ""


def _scale(low: float, high: float, start: float, end: float, log: bool = False) -> Scale:
    if log:
        low, high = math.log10(low), math.log10(high)
    width = (high - low) or 1.0

    def place(value: float) -> float:
        if log:
            value = math.log10(max(value, FLOOR))
        return start + (value - low) / width * (end - start)

    return place


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, about so many."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def decades(values: Sequence[float]) -> list[float]:
    """Powers of ten around positive values, not below the floor."""
    positive = [value for value in values if value > 0]
    low = math.floor(math.log10(max(min(positive, default=0.1), FLOOR)))
    high = math.ceil(math.log10(max(positive, default=1.0)))
    return [10.0**i for i in range(min(low, high - 1), high + 1)]


@dataclass(frozen=True)
class Gap:
    """One difference on the common axis, in per cent of its width."""

    label: str
    start: float
    width: float
    middle: float
    words: str
    tone: str


def gaps(chart: Forest) -> tuple[list[Gap], float, list[tuple[float, str]]]:
    """The differences, the place of zero and the ticks (place, words), all in per cent of the axis."""
    ends = [0.0, *(value for _, *values in chart.rows for value in values)]
    marks = ticks(min(ends), max(ends), 5)
    place = _scale(marks[0], marks[-1], 0.0, 100.0)
    found = []
    for label, mean, low, high in chart.rows:
        tone = Difference(mean, low, high).tone(chart.rising) or "quiet"
        words = f"{mean:+.3g} ({low:+.3g} to {high:+.3g})"
        start = place(low)
        found.append(Gap(label, round(start, 2), round(place(high) - start, 2), round(place(mean), 2), words, tone))
    return found, round(place(0.0), 2), [(round(place(mark), 2), f"{mark:+g}" if mark else "0") for mark in marks]
