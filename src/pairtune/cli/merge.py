"""combine models and deltas without training"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pairtune.cli import dotted, frame
from pairtune.errors import InputError


def merge(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="A recipe, or a mergekit configuration; flags lie over it.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="PATH or PATH:WEIGHT; repeat it for each model.")] = None,
    method: Annotated[str | None, typer.Option(help="How they are combined; by default linear.")] = None,
    base: Annotated[str | None, typer.Option(help="The common base; by default the one that the deltas name.")] = None,
    out: Annotated[str | None, typer.Option(help="The folder to write.")] = None,
    to: Annotated[
        Literal["merged", "delta", "peft"] | None,
        typer.Option(help="A checkpoint (the default), a pairtune delta, or a PEFT LoRA."),
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the LoRA; by default the inputs' factors together.")] = None,
    sparsify: Annotated[
        float | None, typer.Option(help="Of a delta: keep this share of its entries, the largest.")
    ] = None,
    sparsify_by: Annotated[
        Literal["global", "layer"] | None,
        typer.Option(help="Choose them over all tensors (the default), or in each layer."),
    ] = None,
    sign: Annotated[
        bool, typer.Option("--sign", help="Of a delta: keep one bit of every entry, and one size a tensor.")
    ] = False,
    dtype: Annotated[str | None, typer.Option(help="Stored type of the result; by default that of the base.")] = None,
    max_shard_size: Annotated[str | None, typer.Option(help="The most that one file takes; by default 5GB.")] = None,
    allow_vocabulary_growth: Annotated[
        bool, typer.Option("--allow-vocabulary-growth", help="Some models have added tokens; keep them.")
    ] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not load the result and compare its outputs.")
    ] = False,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="A task. For methods that look at data (fisher, regmean): one for each model, in their order; "
            "with --search: those whose mean is to be best."
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(help="Rows of each task: of train, to look at (256); with --search of validation (100)."),
    ] = None,
    search: Annotated[
        bool,
        typer.Option("--search", help="Search for the merge, layer by layer, on a task.", rich_help_panel="Search"),
    ] = False,
    metric: Annotated[
        str | None, typer.Option(help="What is to be best; by default the tasks' main one.", rich_help_panel="Search")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Merges to score; 60.", rich_help_panel="Search")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no trial later than that.", rich_help_panel="Search")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="forest (the default), tpe or random.", rich_help_panel="Search")
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(help="Of several tasks, the best mean (the default) or worst.", rich_help_panel="Search"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the search; 0.", rich_help_panel="Search")] = None,
    jobs: Annotated[int | None, typer.Option(help="Trials at the same time; 1.", rich_help_panel="Search")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write the report as one page.", rich_help_panel="Search")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Merge checkpoints, PEFT adapters and pairtune's deltas, mixed freely, into one of any of these.

    Models are read and the result is written tensor by tensor, so that neither has to fit into memory. Settings of the
    method are dotted flags: --method ties --method.density 0.3 (`pairtune methods merging` lists them). Stopped or
    killed, the same command goes on where it was.

    With --search nothing is merged yet: method and coefficients of every layer are searched on validation rows of a
    task, and --out becomes a folder with the recipe of the best merge, for `pairtune merge FOLDER/recipe.yaml`.
    """
    own = {
        "metric": metric, "trials": trials, "minutes": minutes, "sampler": sampler, "select": select, "seed": seed,
        "jobs": jobs, "html": html,
    }  # fmt: skip
    looked_at = {"data": data, "rows": rows}
    if search:
        refused = {
            "--to": to, "--rank": rank, "--sparsify": sparsify, "--sparsify-by": sparsify_by, "--sign": sign or None,
            "--dtype": dtype, "--max-shard-size": max_shard_size, "a file": file,
        }  # fmt: skip
        _search(ctx.args, model, method, base, out, own | looked_at, refused, allow_vocabulary_growth or no_check, json)
        return
    if lone := [name for name, value in own.items() if value is not None]:
        raise InputError(f"--{lone[0]}: belongs to --search")
    flags = _flags(ctx.args, model, method, data, file is not None)
    plain = {
        "base": base, "out": out, "rows": rows, "to": to, "rank": rank, "sparsify": sparsify, "dtype": dtype,
        "sparsify_by": sparsify_by, "sign": sign or None, "max_shard_size": max_shard_size,
    }  # fmt: skip
    flags |= {name: value for name, value in plain.items() if value is not None}
    flags |= ({"allow_vocabulary_growth": True} if allow_vocabulary_growth else {}) | (
        {"check": False} if no_check else {}
    )
    if file is None:
        if not model:
            raise InputError("name the models, --model PATH or --model PATH:WEIGHT for each, or give a recipe file")
        if out is None:
            raise InputError("name the folder to write: --out FOLDER")
    from pairtune.merging.config.recipe import Recipe, run_file

    done = run_file(file, flags) if file is not None else Recipe.of(flags, "the command line").run()
    frame.emit({"folder": str(done.folder), **done.card}, json, text=_text(done.folder, done.card))


def _search(
    words: list[str],
    models: list[str] | None,
    method: str | None,
    base: str | None,
    out: str | None,
    own: dict[str, Any],
    refused: dict[str, Any],
    more: bool,
    json: bool,
) -> None:
    given = [name for name, value in {**refused, "--method": method}.items() if value is not None] + words
    if given or more:
        what = given[0] if given else "--allow-vocabulary-growth or --no-check"
        raise InputError(f"{what}: has no meaning with --search, which chooses methods and writes a recipe")
    if not models or not own["data"] or out is None:
        raise InputError(
            "--search needs models, a task and a folder: --model PATH --model PATH --data TASK --out FOLDER"
        )
    weighted = [one for one in models if len(_parted(one)) > 1]
    if weighted:
        raise InputError(f"--model {weighted[0]}: the search chooses the weights; name the model alone")
    from pairtune.cli._merge_search import search_merges

    search_merges(models, base, Path(out), own, json)


def _flags(
    words: list[str], models: list[str] | None, method: str | None, data: list[str] | None, has_file: bool
) -> dict[str, Any]:
    """What models and method mean as the fields of a recipe; the settings' names are checked here."""
    settings = dotted.read(words, {"method": method if method or has_file else "linear"}).get("method", {})
    found: dict[str, Any] = {}
    if models:
        entries: list[dict[str, Any]] = [dict(zip(("model", "weight"), _parted(one), strict=False)) for one in models]
        found["models"] = entries
        if data and len(data) != len(models):
            raise InputError(
                f"--data: give one for each of the {len(models)} models, in their order; found {len(data)}"
            )
        for one, task in zip(entries, data or [], strict=False):
            one["data"] = task
    elif data:
        raise InputError("--data: in a recipe, every model names its own: models: [{model: PATH, data: TASK}]")
    if method or settings:
        if method is None and has_file:
            raise InputError(f"--method.{next(iter(settings))}: name the method too, --method NAME")
        found["method"] = {"name": method or "linear", **settings}
    return found


def _parted(text: str) -> tuple[str] | tuple[str, float]:
    """`PATH:0.5` as path and weight; what has no number after its last colon is a path."""
    path, _, tail = text.rpartition(":")
    try:
        return (path, float(tail)) if path else (text,)
    except ValueError:
        return (text,)


def _text(folder: Path, card: dict[str, Any]) -> str:
    rows = [("merged", str(folder)), ("method", card["method"])]
    rows += [(f"  {name}", value) for name, value in card["settings"].items()]
    looked = card.get("samples") or [None] * len(card["models"])
    for parent, data in zip(card["models"], looked, strict=True):
        weight = "" if parent["weight"] is None else f", weight {parent['weight']:g}"
        seen = "" if data is None else f", on {data['rows']} rows of {data['task']}"
        rows.append(("  model", f"{parent['source']}{weight}{seen}"))
    if card["base"]:
        rows.append(("  base", card["base"]["source"]))
    if "rank" in card:
        rows.append(("factors", f"of {card['tensors']} matrices"))
    else:
        rows += _work(card)
    rows.append(("check", _check(card)))
    text = frame.columns(rows)
    if any(card.get("layers", {}).values()):
        lost = [(layer, f"{error:.1%}") for layer, error in card["layers"].items()]
        text += "\n\n" + frame.columns(lost, head=("layer", "lost, of the change's norm"))
    return text


def _work(card: dict[str, Any]) -> list[tuple[str, str]]:
    size = card["bytes"]
    moved = f"{size['read'] / 1e6:,.1f} MB read, {size['written'] / 1e6:,.1f} MB written, {card['seconds']:.1f} s"
    rows = [("tensors", f"{card['tensors']}: {moved}")]
    if "form" in card:
        kept, total = card["entries"]
        how = "signs of" if "sign" in card["form"] else "the largest"
        where = "" if card["form"].get("by") != "layer" else " in each layer"
        rows[0] = ("tensors", str(card["tensors"]))
        rows.append(("kept", f"{how} {kept:,} of {total:,} entries{where}, {size['written'] / 1e6:,.1f} MB"))
    if card["continued"]:
        rows.append(("continued", f"{card['continued']} of them were there from an interrupted merge"))
    if card["memory"]["measured"] is not None and "form" not in card:
        rows.append(("memory", f"{card['memory']['measured'] / 1e6:,.0f} MB at most beside the program's own"))
    return rows


def _check(card: dict[str, Any]) -> str:
    check = card["check"]
    if check is None and any(card.get("layers", {}).values()):
        return f"none: {'the rank' if 'rank' in card else 'this form'} leaves something out"
    if check is None:
        return "left out, as asked"
    if "skipped" in check:
        return f"skipped: {check['skipped']}"
    near = f"{check['largest_difference']:.2g} of the definition (their spread is {check['spread']:.2g})"
    return f"outputs on {check['prompts']} prompts within {near}"
