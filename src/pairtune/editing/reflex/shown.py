"""The report on steering for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pairtune.editing.reflex.report import Arm, SteerReport
    from pairtune.pair.paired import Difference

MEANING = {
    "Q1": "both right",
    "Q2": "base wrong, variant right: gained, gives IV",
    "Q3": "both wrong",
    "Q4": "base right, variant wrong: lost, gives KV",
}
NAMES = {"iv": "IV", "kv": "KV", "caa": "CAA", "iti": "ITI", "random": "random"}


def draw(report: SteerReport) -> Group:
    """Where the two disagree, what the probes see, what steering is worth, what it costs."""
    examples = f", the base behind {report.shots} examples" if report.shots else ""
    parts: list[RenderableType] = [_rule(f"Verdicts on {report.rows['train']:,} training rows{examples}")]
    parts.append(_table(("", "rows", ""), [(name, f"{n:,}", MEANING[name]) for name, n in report.quadrants.items()]))
    for name, why in report.missing.items():
        parts.append(Text(f"No {NAMES[name]}: {why}.", style="yellow"))
    parts += ["", _rule("Probes on held-out pairs (accuracy), the models' offset taken off"), *_probes(report)]
    parts += ["", _rule("Steering, chosen on validation"), *_arms(report)]
    parts += ["", *_end(report)]
    return Group(*parts)


def _probes(report: SteerReport) -> Iterator[RenderableType]:
    for name, one in report.probed.items():
        rows = [
            (
                str(block), f"{accuracy:.2f}", f"{one.raw[block]:.2f}", f"{one.identity[block]:.2f}",
                f"{one.cosine[block]:+.2f}", f"{one.raw_cosine[block]:+.2f}",
            )
            for block, accuracy in one.accuracy.items()
        ]  # fmt: skip
        head = ("block", NAMES[name], "offset left in", "models alone", "cos with models", "offset left in")
        yield Text(f"{NAMES[name]}, {one.pairs} pairs", style="italic")
        yield _table(head, rows)
    yield Text('"models": the direction that tells base from variant on rows where they agree; 0.5 is chance.')


def _arms(report: SteerReport) -> Iterator[RenderableType]:
    for split in next(iter(report.arms.values())).scores:
        rows = []
        for name, arm in report.arms.items():
            one = arm.scores[split]
            rows.append(
                (NAMES.get(name, name), _place(arm), f"{one.accuracy:.1%}", f"{one.macro_f1:.1%}", f"{one.gold:.3f}",
                 *_gain(one.gain), "–" if arm.perplexity is None else f"{arm.perplexity:.1f}")
            )  # fmt: skip
        yield Text(
            f"{split}, {report.rows[split]:,} rows (the most frequent verdict: {report.majority[split]:.1%})",
            style="italic",
        )
        head = ("", "behind, strength", "accuracy", "macro F1", "P(right)", "gain", "95 % interval", "perplexity")
        yield _table(head, rows)


def _end(report: SteerReport) -> Iterator[RenderableType]:
    tried = max(map(len, report.candidates.values()))
    if report.chosen is None:
        yield Text("No candidate raises the probability of the right verdict on validation: steer with none of them.")
    else:
        yield Text(
            f"Chosen: {NAMES[report.chosen]}. It is the best of {tried} candidates of its kind on validation, so that "
            "its gain there is too high; other splits say what it is worth."
        )
    yield Text(f"Perplexity: on general text ({report.general}), every position steered.")
    if report.out is not None and report.chosen is not None:
        yield Text(
            f"The vectors are in {report.out}:  pairtune generate PAIR --steer {report.out}/chosen.safetensors ..."
        )
    elif report.out is not None:
        yield Text(f"The vectors are in {report.out}.")


def _place(arm: Arm) -> str:
    return "" if arm.choice is None else f"block {arm.choice.block}, {arm.choice.alpha:+g} σ"


def _gain(gain: Difference | None) -> tuple[str, str]:
    return ("", "") if gain is None else (f"{gain.mean:+.3f}", f"{gain.low:+.3f} to {gain.high:+.3f}")


def _rule(text: str) -> Rule:
    return Rule(Text(text, style="bold"), align="left", style="dim")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, name in enumerate(head):
        left = i == 0 or not any(row[i][:1] in "0123456789+-–" for row in rows if row[i])
        table.add_column(name, justify="left" if left else "right")
    for row in rows:
        table.add_row(*row)
    return table
