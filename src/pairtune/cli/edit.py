"""change facts that a model says, as a delta, and say whether the edits hold and what they cost"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pairtune.cli import frame
from pairtune.errors import InputError


def edit(
    facts: Annotated[str, typer.Argument(help="Rows with prompt, target, and if you like rephrase and locality.")],
    base: Annotated[str, typer.Option(help="A base (hub id, local folder, zoo:<name>), or a pair, which stays below.")],
    out: Annotated[Path, typer.Option(help="The folder of the new pair.")],
    method: Annotated[str, typer.Option(help="locft-bf, bf, df, ft-l, full or lora.")] = "locft-bf",
    at: Annotated[
        str | None, typer.Option(help="Block and module, as 22:mlp.down_proj; by default one is chosen by a rule.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of Adam; by default the method's.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Edits of a step; by default 100, where there are steps.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most passes; depth-first, most steps on an edit; 25.")] = None,
    updates: Annotated[int | None, typer.Option(help="Most gradients of single edits, to compare methods.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the order of the edits.")] = None,
    general: Annotated[
        str, typer.Option(help="General text for what the edits cost: a file, or demo:general.")
    ] = "demo:general",
    html: Annotated[Path | None, typer.Option(help="Also write the report as one page that needs no network.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; by default the accelerator.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in <out>.run.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Start again, replacing what is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Edit facts into a causal language model, and measure what that did.

    The facts are a file (JSONL, CSV, ...) with the columns prompt and target; a rephrase shall have the same target,
    and the answer to a locality prompt shall stay. Conflicting edits are listed before anything is tuned.

    locft-bf tunes one matrix on mini-batches of all edits, epoch after epoch (arXiv 2509.22072). The others are its
    baselines: bf takes one edit a step, df one edit after the other, ft-l bounds how far a number may move, full tunes
    all weights, lora a low-rank change. Reliability, generalisation, locality and the loss on general text are printed;
    the pair in --out holds what moved and nothing else. Ctrl-C keeps what was done; --resume continues.
    """
    if resume and restart:
        raise InputError("--resume and --restart exclude one another")
    from pairtune.cli._pairs import check_place, write_page

    if html is not None:
        check_place(html)
    given = {"at": at, "lr": lr, "batch_size": batch_size, "epochs": epochs, "updates": updates, "seed": seed}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    from pairtune.analysis.edits import measure_edits
    from pairtune.analysis.forgetting import general_task
    from pairtune.editing.edit import edit as run
    from pairtune.pair.recard import rewrite_card

    general_task(general)  # before anything large is loaded
    pair = run(facts, base, out, method=method, device=device, resume=resume, restart=restart, **settings)
    found = measure_edits(pair, facts, general=general)
    assert pair.card is not None
    rewrite_card(out, pair.card.model_copy(update={"metrics": found.metrics}), {})
    if html is not None:
        write_page(html, found.html())
    frame.emit({"out": str(out), **found.to_dict()} if json else None, json, text=found)
