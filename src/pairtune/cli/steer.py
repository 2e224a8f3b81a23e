"""vectors from what base and variant disagree on, chosen by the right verdict's probability on validation (REFLEX)"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairtune.cli import dotted, frame
from pairtune.errors import InputError

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair


def steer(
    ctx: typer.Context,
    what: Annotated[str, typer.Argument(metavar="PAIR", help="A folder or hub id; with --records, also a base.")],
    data: Annotated[str, typer.Argument(help="Labelled rows: a folder, a file, a hub data set, YAML or demo:<name>.")],
    label_column: Annotated[str | None, typer.Option(help="The column of verdicts.")] = None,
    text: Annotated[
        str | None, typer.Option(help="The column of claims (prompts); by default the one that was tuned on.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the vectors and the report.")] = None,
    direction: Annotated[str, typer.Option(help="How directions are fitted: logistic, mean-difference.")] = "logistic",
    shots: Annotated[int, typer.Option(min=0, help="Examples before the base's prompts, in selecting rows.")] = 4,
    blocks: Annotated[str | None, typer.Option(help="Blocks that are tried, as 4,8,12; by default all.")] = None,
    general: Annotated[str, typer.Option(help="Texts for the perplexity: a file, or demo:general.")] = "demo:general",
    seed: Annotated[int, typer.Option(help="Of the random direction and of wrong verdicts.")] = 0,
    records: Annotated[
        Path | None, typer.Option(help="Only write role-play records to tune on into this folder.")
    ] = None,
    evidence_column: Annotated[str | None, typer.Option(help="With --records: a column of evidence.")] = None,
    explanation_column: Annotated[str | None, typer.Option(help="With --records: a column of explanations.")] = None,
    base: Annotated[str | None, typer.Option(help="The base, where the pair does not name it.")] = None,
    onto: Annotated[bool, typer.Option("--onto", help="Take a delta that was made on another base.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; by default the accelerator.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Find directions that make a tuned model right more often, from what it and its base disagree on.

    Greedy verdicts of base and variant on the training rows give four quadrants. Where the variant became right, the
    activations of both show the Inference Vector; where it became wrong, the Knowledge Vector; what merely tells the
    two models apart is taken off. Block and strength are chosen on validation, by the probability of the right verdict,
    beside CAA, ITI and a random direction of equal length. Test and OOD splits are scored once.

    The vectors in --out are read by `pairtune generate --steer`. Settings of the direction are dotted flags:
    --direction.c 0.01.

    --records writes rows to tune on instead: each claim asks a fact-checker for a verdict (and reasons, where there is
    a column of explanations).
    """
    settings = dotted.read(ctx.args, {"direction": direction}).get("direction", {})
    chosen = _blocks(blocks)
    if records is None and (evidence_column or explanation_column):
        raise InputError("--evidence-column and --explanation-column go with --records FOLDER")
    if records is not None and out is not None:
        raise InputError("--records writes rows to tune on, before there is anything to steer; leave --out out")
    from pairtune.cli._pairs import opened

    pair = opened(what, base, onto, device)
    task = _task(pair, data, text, label_column, records is not None)
    if records is not None:
        from pairtune.editing.reflex.records import write_records

        chat = bool(pair.tokenizer.chat_template)
        counts = write_records(task, records, chat, evidence_column, explanation_column)
        columns = "--data.text messages" if chat else "--data.text prompt --data.label completion"
        said = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        told = f"records written into {records} ({said}); tune on them with --data {records} --data.kind lm {columns}"
        frame.emit({"out": str(records), "rows": counts}, json, text=told)
        return
    from pairtune.analysis.progress import Steps
    from pairtune.editing.reflex.run import steer as run

    report = run(
        pair, task, out, direction=direction, settings=settings, shots=shots, blocks=chosen, general=general, seed=seed,
        progress=lambda total: Steps("steer", total),
    )  # fmt: skip
    frame.emit(report.to_dict() if json else None, json, text=report)


def _task(pair: Pair, data: str, text: str | None, label: str | None, fresh: bool) -> Task:
    """Claims and verdicts as a classification task; what is not named is as the pair was tuned, else guessed.

    Args:
        fresh: whether the rows are not those that the pair was tuned on.
    """
    from pairtune.data.task import Task

    known: dict[str, Any] = (pair.card.task or {}) if pair.card and not fresh else {}
    given: dict[str, Any] = {"text": text, "label": label, "separator": known.get("separator")}
    if known and text is None:
        given["text"] = "prompt" if known.get("chat") else known["text"]
    if known.get("kind") == "classification":
        given["labels"] = known["labels"]
        given["label"] = label or known["label"]
    return Task.load(data, "classification", **{name: value for name, value in given.items() if value is not None})


def _blocks(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"--blocks: expected numbers with commas between them, as 4,8,12, found {text!r}") from None
