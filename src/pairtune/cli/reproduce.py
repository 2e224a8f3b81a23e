"""run a paper's claim at small scale and say whether it holds"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pairtune.cli import frame
from pairtune.errors import InputError


def reproduce(
    names: Annotated[list[str] | None, typer.Argument(help="Papers by name; without any, list them.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every reproduction there is.")] = False,
    work: Annotated[Path, typer.Option(help="Folder for what is computed on the way; a stopped run continues.")] = Path(
        "runs/reproductions"
    ),
    docs: Annotated[Path | None, typer.Option(help="Publish the results in this documentation folder.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: name=value.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Measure papers' claims. The rule that decides each stands in its file, written before any run."""
    from pairtune.reproductions import frame as claims
    from pairtune.reproductions import pages

    chosen = claims.names() if all_ else names
    if not chosen:
        known = {slug: claims.load(slug) for slug in claims.names()}
        rows = [(slug, one.paper, one.claim) for slug, one in known.items()]
        frame.emit([{"name": a, "paper": b, "claim": c} for a, b, c in rows], json, text=frame.columns(rows))
        return
    changes = _changes(set_ or [])
    reports: dict[str, Any] = {}
    for reproduction in [claims.load(slug) for slug in chosen]:
        report = claims.execute(reproduction, work / reproduction.slug, changes)
        reports[reproduction.slug] = report
        if docs is not None:
            pages.publish(report, reproduction.slug, docs)
    frame.emit(reports, json, text="\n\n".join(_text(report) for report in reports.values()))


def _changes(pairs: list[str]) -> dict[str, Any]:
    from pairtune import yaml12

    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise InputError(f"--set {wrong[0]}: expected name=value")
    return {name: yaml12.loads(value, f"--set {name}") for name, _, value in (pair.partition("=") for pair in pairs)}


def _text(report: dict[str, Any]) -> str:
    lines = [report["paper"], report["claim"], "", *_measured(report)]
    for name, found in report.get("more", {}).items():
        lines += ["", f"{name}: {found['title']}", "", *_measured(found)]
    verdict = f"verdict: {report['verdict']} ({len(report['seeds'])} seeds, {report['seconds'] / 60:.1f} minutes)"
    return "\n".join([*lines, "", verdict])


def _measured(found: dict[str, Any]) -> list[str]:
    from pairtune.reproductions.pages import splits_of

    arms, splits = found["numbers"], splits_of(found)
    rows = [
        (arm, *(f"{n[s]['mean']:.3f} ± {n[s]['sd']:.3f}" if s in n else "" for s in splits)) for arm, n in arms.items()
    ]
    parts = [
        (
            p["name"],
            f"{p['difference']:+.4f}",
            f"{p['interval'][0]:+.4f} to {p['interval'][1]:+.4f}",
            p["verdict"] if p["counts"] else f"({p['verdict']})",
        )
        for p in found["parts"]
    ]
    head = "part" if all(p["counts"] for p in found["parts"]) else "part (verdict in brackets: not counted)"
    table = frame.columns(parts, head=(head, "difference", "90 % interval", "verdict"))
    return [frame.columns(rows, head=("arm", *splits)), "", table]
