"""The report on scrubbing for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pairtune.editing.scrub.offtopic import Drift
    from pairtune.editing.scrub.report import ScrubReport, SideReport

SIDES = {"write": "What the first delta writes", "read": "What the first delta reads"}


def draw(report: ScrubReport) -> Group:
    """Found, how sure, what is left, what it cost."""
    parts: list[RenderableType] = []
    for name, side in report.sides.items():
        used = name in report.held_sides
        parts += [_rule(SIDES[name] + ("" if used else " (not used)")), *_side(side), ""]
    parts += [_rule("How sure that is"), Text(f"{report.sure[0].upper()}{report.sure[1:]}.")]
    parts += [
        Text(f"  {'yes' if holds else 'no '}  {name}: {fact}", style="" if holds else "yellow")
        for name in report.held_sides
        for fact, holds in report.sides[name].evidence.items()
    ]
    parts += ["", _rule(f"What is left in the second delta (held: {report.where}, {report.layers} blocks)")]
    parts += [*_residual(report), "", _rule("What it cost"), *_cost(report)]
    parts += [
        "",
        Text(f"The pair is in {report.out}. GRASP is experimental here: `pairtune methods constraints grasp`."),
    ]
    return Group(*parts)


def _rule(text: str) -> Rule:
    return Rule(Text(text, style="bold"), align="left", style="dim")


def _side(side: SideReport) -> Iterator[RenderableType]:
    many = "one direction" if side.k == 1 else f"{side.k} directions"
    gap = "no further one" if side.gap is None else f"{side.gap:.2f} times the next"
    energy = sum(side.energy[: side.k])
    yield Text(f"{many[0].upper()}{many[1:]}, {energy:.0%} of the energy, the last {gap}.")
    rows = [
        ("singular values", ", ".join(f"{value:.3g}" for value in side.values[:6])),
        ("found on either half of the rows", f"|cos| {side.halves:.2f} (random: {side.chance:.2f})"),
        ("from block to block", f"|cos| {side.agreement:.2f}"),
        (
            "added to the base",
            f"cos {side.causal.cosine:+.2f} with the drift (random: up to {side.causal.random[-1]:.2f})",
        ),
        ("with the mean activation", f"|cos| {side.overlap.mean:.2f}"),
        ("on the most massive channels", f"{side.overlap.massive:.0%}"),
    ]
    yield _table((), rows)
    yield _shares("block", side.layers)
    yield _shares("layers", side.kinds)


def _shares(head: str, shares: Sequence) -> Table:
    rows = [(one.name, f"{one.share:.0%}", f"{one.along:.0%}", f"{one.cosine:.2f}") for one in shares]
    return _table((head, "of the energy", "of its own along", "|cos| of its leading one"), rows, right=True)


def _residual(report: ScrubReport) -> Iterator[RenderableType]:
    left = report.residual
    said = ", ".join(f"{side} {share:.2%}" for side, share in left.held.items())
    again = ", ".join(f"{side} {value:.2f}" for side, value in left.again.items())
    yield Text(f"Share of its energy along what was found: {said}.")
    yield Text(f"|cos| of what is found in it now with what was found before: {again}.")
    rows = [(f"the {name} delta", *_drift(drift)) for name, drift in (("first", left.first), ("second", left.second))]
    yield Text(f"Drift on {report.texts} texts from outside ({report.source}):", style="italic")
    yield _table(("", "stream moved", "along what was found", "KL from the base, nats"), rows, right=True)


def _drift(drift: Drift) -> tuple[str, str, str]:
    kl = "–" if drift.divergence is None else f"{drift.divergence:.4f}"
    return f"{drift.moved:.1%}", f"{drift.along:.2%}", kl


def _cost(report: ScrubReport) -> Iterator[RenderableType]:
    cost = report.cost
    steps = ", ".join(f"{name} {count}" for name, count in cost.steps.items())
    yield Text(f"Optimizer steps: {steps}; {sum(cost.steps.values()) / max(cost.steps['second'], 1):.1f} runs' worth.")
    names = [name for name in cost.first if name in cost.second and "runtime" not in name and "second" not in name]
    rows = [(name, f"{cost.first[name]:.4g}", f"{cost.second[name]:.4g}") for name in names]
    if rows:
        yield _table(("on validation", "first", "second"), rows, right=True)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: bool = False) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(head), header_style="bold")
    for i in range(len(rows[0]) if rows else len(head)):
        table.add_column(head[i] if head else "", justify="right" if right and i else "left")
    for row in rows:
        table.add_row(*row)
    return table
