"""what this machine can do, and whether a pair keeps its promises"""

from __future__ import annotations

from typing import Annotated

import typer

from pairtune.cli import frame
from pairtune.errors import PairtuneError


def doctor(
    pair: Annotated[str | None, typer.Option(help="A pair's folder: run the promises on it.")] = None,
    base: Annotated[str | None, typer.Option(help="Its base, where the folder does not name it.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Show what this machine can do; with --pair, check on the user's own model what pairtune promises."""
    from pairtune.analysis import doctor as examination

    report: dict = {"machine": examination.machine(), "checks": None}
    text = frame.columns([(name, _words(value)) for name, value in report["machine"].items()])
    if pair is not None:
        from pairtune.pair.pair import Pair

        checks = examination.examine(Pair.load(pair, base))
        report["checks"] = [vars(check) for check in checks]
        marks = {True: "holds", False: "BROKEN", None: "n/a"}
        text += "\n\n" + frame.columns([(marks[check.holds], check.name, check.seen) for check in checks])
    frame.emit(report, json, text=text)
    if any(check["holds"] is False for check in report["checks"] or []):
        raise PairtuneError("at least one promise does not hold on this pair; see the lines marked BROKEN")


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item or '(not installed)'}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
