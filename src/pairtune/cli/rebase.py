"""move a delta to another version of its base, and say whether it works there"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pairtune.cli import frame
from pairtune.errors import InputError


def rebase(
    pair: Annotated[str, typer.Argument(help="A pair's folder, a PEFT folder, or a fine-tuned checkpoint.")],
    onto: Annotated[str, typer.Option(help="The new base: hub id, local folder or zoo:<name>.")],
    out: Annotated[Path | None, typer.Option(help="The folder of the new pair; without it nothing is kept.")] = None,
    to: Annotated[Literal["pair", "merged"], typer.Option(help="A pair, or a full checkpoint.")] = "pair",
    base: Annotated[str | None, typer.Option(help="The old base, where the pair does not name it.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Stored type of a checkpoint; by default the new base's.")] = None,
    data: Annotated[str | None, typer.Option(help="A task to try it on: folder, file, hub id, or YAML.")] = None,
    tuned: Annotated[str | None, typer.Option(help="A pair tuned on the new base, to compare with.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="The task's text column(s), where the guess is wrong.")] = None,
    label: Annotated[str | None, typer.Option(help="The task's label column, where the guess is wrong.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Score every row instead of a sample.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Add what tuning added to an old base to a new version of that base: new base + (fine-tune - old base).

    Both bases must be of one architecture, size and vocabulary. The new base's configuration and buffers stay; the
    fine-tune's tokenizer, chat template and generation configuration are taken. Adapters, sparse and low-rank deltas
    stay what they are; heads and side networks are taken over unchanged. --to merged writes base and delta as one
    checkpoint, streaming from disk to disk.

    --data tells beforehand what to expect: the task's loss along the line between the two bases, and on the new base
    with 0 to 1.2 times the delta. --tuned adds what can only be known afterwards. `pairtune tune --start OUT` tunes the
    moved delta on; from version to version, that is iterative recycling.
    """
    _check(out, data, tuned, text, label, everything)
    if dtype is not None and to != "merged":
        raise InputError("--dtype: is for a checkpoint (--to merged); a pair keeps its own")
    if to == "merged" and data is None and out is not None:
        _merged(pair, onto, out, base, dtype, json)
        return
    from pairtune.merging.rebase.pair import rebase as move

    moved = move(pair, onto, base=base)
    found = None
    if data is not None:
        found = _tried(pair, moved, base, data, tuned, text, label, everything)
        if not json:
            frame.emit(None, False, text=found)
    kept: dict[str, Any] = {} if out is None else {"out": str(out)}
    if out is not None and to == "merged":
        from pairtune.merging.rebase.merged import rebase_merged

        rebase_merged(pair, onto, out, base=base, dtype=dtype)
    elif out is not None:
        moved.save(out)
    assert moved.card is not None
    report = kept | {"onto": onto, "parents": moved.card.parents, "notes": moved.card.notes}
    report |= {"tokenizer": _tokenizer(moved), "delta": moved.delta.summary().splitlines()[0]}
    if json:
        frame.emit(report | ({} if found is None else {"connectivity": found.to_dict()}), True)
    else:
        rows = [("pair", str(out) if out is not None else "not kept (no --out)"), ("delta", report["delta"])]
        rows += [("tokenizer", report["tokenizer"]), *(("note", note) for note in moved.card.notes)]
        frame.emit(None, False, text=("\n" if found is not None else "") + frame.columns(rows))


def _merged(pair: str, onto: str, out: Path, base: str | None, dtype: str | None, json: bool) -> None:
    """Stream the checkpoint, and say what was done."""
    from pairtune.merging.rebase.merged import rebase_merged

    card = rebase_merged(pair, onto, out, base=base, dtype=dtype).card
    rows = [("checkpoint", str(out)), ("moved", pair), ("from", card["old_base"]), ("onto", onto)]
    frame.emit({"out": str(out)} | card, json, text=frame.columns(rows))


def _check(
    out: Path | None, data: str | None, tuned: str | None, text: list[str] | None, label: str | None, everything: bool
) -> None:
    """Refuse what does not go together, before anything loads."""
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; choose another name")
    if out is None and data is None:
        raise InputError("nothing to do: --out keeps the moved pair, --data tries it on a task")
    alone = [name for name, given in (("--tuned", tuned), ("--text", text), ("--label", label)) if given]
    alone += ["--all"] if everything else []
    if data is None and alone:
        raise InputError(f"{alone[0]} needs a task to be tried on: give --data")


def _tried(pair, moved, base, data, tuned, text, label, everything):
    """What the task says of the move."""
    from pairtune.analysis.connectivity import connectivity
    from pairtune.cli.eval import task_of
    from pairtune.pair.pair import Pair
    from pairtune.pair.twin import twin

    task = task_of(data, text, label, moved)
    try:
        source = Pair.load(pair, base)
    except InputError as error:
        frame.fail(f"the old base cannot be loaded, so that nothing is measured from there: {error}", 0, word="note")
        source = None
    other = None if tuned is None else Pair.load(tuned, twin(moved.base))
    return connectivity(moved, task, source=source, tuned=other, everything=everything)


def _tokenizer(moved) -> str:
    from pairtune.pair.checkpoint import tokenizer_digest

    same = tokenizer_digest(moved.tokenizer) == tokenizer_digest(moved.base.tokenizer)
    return "the same in both" if same else "the fine-tune's"
