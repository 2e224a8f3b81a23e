"""metrics of a base and of any number of variants on the same items, with paired intervals"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairtune.cli import frame
from pairtune.errors import InputError

if TYPE_CHECKING:
    from pairtune.analysis.evaluate import Evaluation


def eval(
    pairs: Annotated[list[str], typer.Argument(help="Pairs' folders (or PEFT folders, or checkpoints with --base).")],
    data: Annotated[str, typer.Option(help="A task: folder, file, hub id, or YAML.")],
    split: Annotated[list[str] | None, typer.Option(help="Splits; by default test and every OOD split.")] = None,
    base: Annotated[str | None, typer.Option(help="The base, where the pairs do not name it.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="The task's text column(s), where the guess is wrong.")] = None,
    label: Annotated[str | None, typer.Option(help="The task's label column, where the guess is wrong.")] = None,
    generate: Annotated[bool, typer.Option(help="Write texts too, and compare them with the targets.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Evaluate base and variants over the same items; differences come with their 95 % intervals and the flips."""
    from pairtune.analysis.evaluate import evaluate
    from pairtune.pair.pair import Pair

    if len(set(pairs)) < len(pairs):
        raise InputError("a pair is named twice")
    loaded: dict[str, Pair] = {}
    for name in pairs:
        # The variants share one base in the report, not in memory: each switches its own.
        loaded[name] = Pair.load(name, base)
    task = task_of(data, text, label, next(iter(loaded.values())))
    found = evaluate(loaded, task, split, generate=generate)
    frame.emit(found, json, text=table(found, task))


def task_of(data: str, text: list[str] | None, label: str | None, pair: Any) -> Any:
    """The task, with the columns and labels that the pair was tuned with where nobody names others."""
    from pairtune.data.task import Task

    known = (pair.card.task or {}) if pair.card else {}
    given = {"text": text or None, "label": label}
    if known and text is None and label is None:
        given = {"kind": known["kind"], "text": known["text"], "label": known["label"]}
        if known["labels"]:
            given["labels"] = known["labels"]
    return Task.load(data, **{key: value for key, value in given.items() if value is not None})


def table(found: Evaluation, task: Any = None) -> str:
    """Metrics by split and model, the differences with intervals, and the first flipped items."""
    rows = []
    for split, models in found.metrics.items():
        for model, values in models.items():
            cells = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
            rows.append((f"{split} ({found.items[split]})", model, cells))
    parts = [frame.columns(rows, head=("split (rows)", "model", "metrics"))]
    changes = []
    for split, variants in found.differences.items():
        for variant, metrics in variants.items():
            for metric, one in metrics.items():
                flips = "" if one.fixed is None else f"{len(one.fixed)} fixed, {len(one.broken or [])} broken"
                p = "" if one.p_value is None else f"{one.p_value:.2g}"
                change = f"{one.mean:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
                changes.append((split, variant, metric, change, p, flips))
    if changes:
        head = ("split", "variant − base", "metric", "difference (95 %)", "McNemar p", "flips")
        parts.append(frame.columns(changes, head=head))
    parts += [f"{split}: {why}" for split, why in found.skipped.items()]
    return "\n\n".join(parts)
