"""change facts that a model says, as a delta, and say whether the edits hold and what they cost"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pairtune.cli import frame
from pairtune.errors import InputError

SAMPLE = 100  # edits on which places are compared


def edit(
    facts: Annotated[str, typer.Argument(help="Rows with prompt, target, and if you like rephrase and locality.")],
    base: Annotated[str, typer.Option(help="A base (hub id, local folder, zoo:<name>), or a pair, which stays below.")],
    out: Annotated[Path, typer.Option(help="The folder of the new pair.")],
    method: Annotated[str, typer.Option(help="locft-bf, bf, df, ft-l, full or lora.")] = "locft-bf",
    at: Annotated[
        str | None, typer.Option(help="Block and module, as 22:mlp.down_proj; by default one is chosen by a rule.")
    ] = None,
    search_location: Annotated[
        bool, typer.Option("--search-location", help="Choose the place by trying all on a hundred of the edits (slow).")
    ] = False,
    lr: Annotated[float | None, typer.Option(help="Learning rate of Adam; by default the method's.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Edits of a step; by default 100 (one for bf, df, ft-l).")
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

    Which place is best differs from model to model: --search-location edits up to a hundred of the facts, evenly
    spread, at each feed-forward projection of each block in turn, and takes the one with the best mean share of
    reliability, generalisation and locality less the rise of the loss on general text.
    """
    if resume and restart:
        raise InputError("--resume and --restart exclude one another")
    if search_location and (at is not None or method == "full" or resume):
        other = "--at" if at is not None else "--resume (with --at, the place that was found)" if resume else "full"
        raise InputError(f"--search-location chooses the place, and {other} leaves nothing to choose")
    if search_location and not restart and (out.exists() or out.with_name(f"{out.name}.run").exists()):
        raise InputError(f"{out} or its run is there already; choose another --out, or --restart to replace it")
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
    if search_location:
        settings["at"] = _best_place(facts, base, {"method": method, **settings}, general, device)
    pair = run(facts, base, out, method=method, device=device, resume=resume, restart=restart, **settings)
    found = measure_edits(pair, facts, general=general)
    assert pair.card is not None
    rewrite_card(out, pair.card.model_copy(update={"metrics": found.metrics}), {})
    if html is not None:
        write_page(html, found.html())
    frame.emit({"out": str(out), **found.to_dict()} if json else None, json, text=found)


def _best_place(facts: str, base: str, settings: dict[str, Any], general: str, device: str | None) -> str:
    """The place with the best score; every place's is logged."""
    from pairtune.analysis.edits import measure_edits
    from pairtune.data.facts import Facts
    from pairtune.editing.edit import open_pair
    from pairtune.editing.locft.search import places
    from pairtune.editing.locft.search import search_location as search
    from pairtune.editing.locft.ways import way

    every = Facts.read(facts)
    some, pair = every.spread(SAMPLE), open_pair(base, device)
    # As many steps an epoch as the edits that are to be made will have.
    size = settings.get("batch_size") or way(settings["method"]).batch_size
    size = max(1, round(min(size, len(every)) * len(some) / len(every)))
    found = search(
        pair, some, places(pair.base), lambda one: measure_edits(one, some, general=general).score,
        {**settings, "batch_size": size},
    )  # fmt: skip
    return max(found, key=lambda place: found[place])
