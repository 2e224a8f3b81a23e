"""tune without what the data also teach: a direction found in a first delta is kept out of a second (experimental)"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pairtune.cli import frame
from pairtune.cli._runs import run_config
from pairtune.errors import InputError


def scrub(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="A run file (YAML); flags lie over it.")] = None,
    base: Annotated[str | None, typer.Option(help="Hub id, local folder or zoo:<name>.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder, file, hub data set, task YAML or demo:<name>.")] = None,
    tuner: Annotated[str | None, typer.Option(help="Where the delta lives; by default lora.")] = None,
    objective: Annotated[str | None, typer.Option(help="What pulls it; by default chosen by the task.")] = None,
    constraint: Annotated[list[str] | None, typer.Option(help="What else holds it back; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the pair; all else goes to <out>.scrub.")] = None,
    first: Annotated[
        str | None, typer.Option(help="A pair tuned on these data already; it gives base and run.")
    ] = None,
    where: Annotated[
        Literal["both", "write", "read", "backprop"], typer.Option(help="What the second delta may not use.")
    ] = "both",
    k: Annotated[str, typer.Option(help="Directions a side, 1 to 8; gap: up to the largest one.")] = "gap",
    layers: Annotated[Literal["all", "middle"], typer.Option(help="Which blocks count.")] = "all",
    off_topic: Annotated[str, typer.Option(help="Texts that are not of the task: a file, or demo:general.")] = (
        "demo:general"
    ),
    seed: Annotated[int | None, typer.Option(help="Seed of initial values, data order and dropout.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; by default the accelerator.")] = None,
    quantize: Annotated[str | None, typer.Option(help="4bit: the base's linear layers in four bits (NF4).")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start again, replacing what is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Tune on data whose rows all share something besides the task, without learning that (GRASP; experimental).

    A first delta is tuned as `pairtune tune` would; --first takes one that is there. Its weights show, without labels,
    which direction of the residual stream it writes to and reads from most. A second delta is tuned that may not use
    it; the base's own use of it stays. Deltas of either half of the rows, texts from outside and the spectrum say how
    sure the direction is; the report also says what is left of it and what leaving it out cost.

    Settings of methods and of the training are dotted flags, as for `pairtune tune`. Four runs are tuned in all. After
    Ctrl-C the same command goes on where it was.
    """
    plain = {"base": base, "data": data, "seed": seed, "device": device, "quantize": quantize}
    plain["out"] = None if out is None else str(out)
    under = _as_tuned(first) if first is not None and file is None else None
    config = run_config(ctx.args, file, plain, tuner=tuner, objective=objective, constraint=constraint, under=under)
    from pairtune.analysis.against import against
    from pairtune.data.as_tuned import task_for
    from pairtune.editing.scrub.run import scrub as run
    from pairtune.pair.twin import load_pairs

    pair, found = run(
        config, first=first, where=where, k=_count(k), layers=layers, off_topic=off_topic, restart=restart
    )
    report: dict[str, Any] = found.to_dict()
    if not json:
        frame.emit(None, False, text=found)
    task = task_for(pair, config.data)  # type: ignore[arg-type]
    del pair
    if any(name == "test" or name.startswith("ood/") for name in task.splits):
        loaded = load_pairs({"first": first or f"{config.out}.scrub/first", "second": str(config.out)})
        compared = against(("first", loaded["first"]), ("second", loaded["second"]), task)
        report["against"] = compared.to_dict()
        if not json:
            frame.emit(None, False, text=compared)
    if json:
        frame.emit(report, True)


def _as_tuned(first: str) -> dict[str, Any]:
    """The run that a pair's card tells of: base, tuner, objective, constraints and training."""
    from pairtune.pair.disk import read_json
    from pairtune.training.start import defaults

    given = defaults(first)
    card = read_json(Path(first) / "pair.json")
    told = (card["stack"][-1].get("training") or {}).get("identity", {}).get("settings", {})
    return {name: value for name, value in {**given, **told}.items() if value is not None}


def _count(k: str) -> Any:
    if k == "gap":
        return k
    try:
        return int(k)
    except ValueError:
        raise InputError(f"--k: expected a number from 1 to 8, or gap, found {k!r}") from None
