"""The published table of reproductions and the paper index, generated from the stored results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pairtune.pair.disk import read_json, write_json

HEAD = """# Reproductions

Each row is a paper's claim, measured at small scale by `pairtune reproduce <name>`. The rule that decides stands in the
claim's file and was written before the run; intervals are 90 % bootstrap intervals over seeds and items. A claim that
does not hold here may hold at the paper's scale: the settings say what was cut.

This page is generated from `docs/reproductions/*.json` by `make docs`.
"""


def publish(report: dict[str, Any], slug: str, docs: Path) -> None:
    """Store one result and write the page anew."""
    (docs / "reproductions").mkdir(parents=True, exist_ok=True)
    write_json(docs / "reproductions" / f"{slug}.json", report)
    (docs / "reproductions.md").write_text(page(docs), encoding="utf-8")


def page(docs: Path) -> str:
    """The page from every stored result."""
    stored = {path.stem: read_json(path) for path in sorted((docs / "reproductions").glob("*.json"))}
    lines = [HEAD, "| paper | verdict | module | verb | seeds | minutes |", "|---|---|---|---|---|---|"]
    for slug, found in stored.items():
        lines.append(
            f"| [{found['paper']}](#{slug}) | **{found['verdict']}** | `{found['module']}` | `{found['verb']}` | "
            f"{len(found['seeds'])} | {found['seconds'] / 60:.0f} |"
        )
    for slug, found in stored.items():
        lines += ["", f"## {slug}", "", found["claim"], "", *_measured(found)]
        for name, one in found.get("more", {}).items():
            lines += ["", f"### {slug}: {name}", "", one["title"], "", *_measured(one)]
        lines += ["", f"Reading: {found['reading']}"] if found.get("reading") else []
    return "\n".join(lines).rstrip() + "\n"


def _measured(found: dict[str, Any]) -> list[str]:
    settings = ", ".join(f"{name} {value}" for name, value in found["settings"].items())
    return [*_parts(found), "", *_arms(found), "", f"Settings: {settings}."]


def _parts(found: dict[str, Any]) -> list[str]:
    lines = ["| part | difference | 90 % interval | verdict |", "|---|---|---|---|"]
    for part in found["parts"]:
        low, high = part["interval"]
        what = f"{part['name']}: {part['method']} − {part['baseline']} on {', '.join(part['splits'])}"
        verdict = part["verdict"] if part.get("counts", True) else f"{part['verdict']} (not counted)"
        lines.append(f"| {what} | {part['difference']:+.4f} | {low:+.4f} to {high:+.4f} | {verdict} |")
    return lines


def _arms(found: dict[str, Any]) -> list[str]:
    splits = splits_of(found)
    lines = [f"| arm | {' | '.join(splits)} |", "|---|" + "---|" * len(splits)]
    for arm, numbers in found["numbers"].items():
        cells = [_cell(numbers.get(split)) for split in splits]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def splits_of(found: dict[str, Any]) -> list[str]:
    """All splits on which some arm has outcomes, in the order in which they come up."""
    return list(dict.fromkeys(split for numbers in found["numbers"].values() for split in numbers))


def _cell(number: dict[str, float] | None) -> str:
    """Mean and spread over seeds; nothing for a split that an arm has no outcomes on."""
    return "" if number is None else f"{number['mean']:.4f} ± {number['sd']:.4f}"
