"""make a delta: tune a base on data"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pairtune.cli import frame
from pairtune.cli._runs import run_config
from pairtune.errors import InputError


def tune(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="A run file (YAML) or a recipe's name; flags lie over it.")] = None,
    base: Annotated[str | None, typer.Option(help="Hub id, local folder or zoo:<name>.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder, file, hub data set, task YAML or demo:<name>.")] = None,
    tuner: Annotated[str | None, typer.Option(help="Where the delta lives; by default lora.")] = None,
    objective: Annotated[str | None, typer.Option(help="What pulls it; by default chosen by the task.")] = None,
    constraint: Annotated[list[str] | None, typer.Option(help="What holds it back; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the pair; its checkpoints go to <out>.run.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initial values, data order and dropout.")] = None,
    start: Annotated[str | None, typer.Option(help="A pair to begin at; it names base and tuner, too.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; by default the accelerator.")] = None,
    quantize: Annotated[str | None, typer.Option(help="4bit: the base's linear layers in four bits (NF4).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in <out>.run.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Start again, replacing what is there.")] = False,
    allow_drift: Annotated[bool, typer.Option("--allow-drift", help="Resume although the run was changed.")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="Try learning rates; the best on validation is kept.")] = False,
    seeds: Annotated[int | None, typer.Option(help="Tune with so many seeds; how stable it is, and the best.")] = None,
    rates: Annotated[str | None, typer.Option(help="The rates of --sweep, as 1e-4,3e-4; by default five.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Tune a base and save the pair of base and delta.

    Settings of methods and of the training are dotted flags: --tuner.r 8 --constraint.l2sp.weight 0.1
    --training.lr 1e-3 (`pairtune methods` lists them). Before it starts: memory by part, time, trainable share, the
    bound on speed-up. Ctrl-C keeps what there is (exit code 130, SIGTERM 143); --resume continues.

    --start PAIR begins at the values of that pair's delta, and measures the new one against the base again: how a delta
    that `pairtune rebase` moved to a newer base is tuned on there.

    --seeds N tunes with N seeds, from --seed on, and says mean, spread, failed runs and what the best of n seeds would
    reach. All pairs stay in <out>.seeds, the best on validation is copied to <out>. The same command goes on after a
    stop, and a larger N adds seeds.
    """
    _check(resume, restart, allow_drift, sweep or bool(rates), seeds)
    plain = {"base": base, "data": data, "seed": seed, "start": start, "device": device, "quantize": quantize}
    plain["out"] = None if out is None else str(out)
    config = run_config(ctx.args, file, plain, tuner=tuner, objective=objective, constraint=constraint)
    if config.out is None:
        name = Path(str(config.data)).stem if isinstance(config.data, str) else "task"
        tuners = "-".join(step.tuner.name for step in config.steps())
        config = config.model_copy(update={"out": f"{name}-{tuners}".replace(":", "-")})
    if sweep or rates:
        from pairtune.training.sweep import sweep as run_sweep

        pair, result = run_sweep(config, _rates(rates))
        report = {"out": config.out, "sweep": result.to_dict()}
    elif seeds is not None:
        from pairtune.training.seeds import tune_seeds

        pair, found = tune_seeds(config, seeds, restart=restart)
        report = {"out": config.out, "seeds": found.to_dict()}
    else:
        from pairtune.training.run import tune as run

        pair = run(config, resume=resume, restart=restart, allow_drift=allow_drift)
        report = {"out": config.out}
    record = pair.top.record.get("training", {})
    report |= {key: record.get(key) for key in ("steps", "chosen_step", "lr", "metrics", "preflight", "out_of_memory")}
    frame.emit(report, json, text=_text(report))


def _check(resume: bool, restart: bool, allow_drift: bool, sweep: bool, seeds: int | None) -> None:
    """Refuse flags that say different things."""
    if resume and restart:
        raise InputError("--resume and --restart exclude one another")
    if sweep and seeds is not None:
        raise InputError("--sweep and --seeds exclude one another: sweep first, then --seeds with --training.lr")
    if seeds is not None and seeds < 2:
        raise InputError(f"--seeds: expected 2 or more, found {seeds}; --seed chooses the seed of a single run")
    if (sweep or seeds is not None) and (resume or allow_drift):
        flag, what = "--resume" if resume else "--allow-drift", "--sweep" if sweep else "--seeds"
        raise InputError(f"{flag} is for a single run; {what} goes on by itself with what it has, so leave {flag} out")
    if sweep and restart:
        raise InputError("--restart is for a single run or --seeds; for a new --sweep choose another --out")


def _rates(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"--rates: expected numbers like 1e-4,3e-4, found {text!r}") from None
    if not all(rate > 0 for rate in found):
        raise InputError(f"--rates: expected numbers above 0, found {text!r}")
    return found


def _text(report: dict[str, Any]) -> str:
    rows = [("pair", report["out"]), ("steps", report["steps"] or "none: nothing trains")]
    if report["steps"]:
        rows.append(("kept", f"the state after step {report['chosen_step']}"))
        rows.append(("learning rate", f"{report['lr']:g}"))
    for point in report.get("sweep", {}).get("points", []):
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in point["metrics"].items())
        rows.append((f"  tried {point['lr']:g}", metrics or point["failed"]))
    rows += [(name, f"{value:.4g}") for name, value in (report["metrics"] or {}).items()]
    stability = report.get("seeds")
    return frame.columns(rows) if stability is None else f"{_seeds_text(stability)}\n\n{frame.columns(rows)}"


def _seeds_text(found: dict[str, Any]) -> str:
    """Every seed, then what they say together."""
    metric, runs = found["metric"], found["runs"]
    rows = []
    for run in runs:
        value = "none" if run["value"] is None else f"{run['value']:.4g}"
        losses = "" if run["losses"] is None else f"{run['losses'][0]:.4g} → {run['losses'][1]:.4g}"
        notes = ["the best, kept as the pair"] * (run["seed"] == found["best"])
        notes += [f"failed: {run['failed']}"] * bool(run["failed"])
        rows.append((run["seed"], value, losses, "; ".join(notes)))
    parts = [frame.columns(rows, head=("seed", f"validation {metric}", "training loss", ""))]
    known = [run for run in runs if run["value"] is not None]
    about = [("failed", f"{found['failed']} of {len(runs)} runs")]
    if found["baseline"] is not None:
        about.append(("without text", f"{found['baseline']:.4g} (what answering the same for every text gives)"))
    if len(known) > 1:
        of = "" if len(known) == len(runs) else f" of the {len(known)} runs that have a value"
        about += [
            (f"mean{of}", f"{found['mean']:.4g} ({_interval(found['mean_interval'])})"),
            ("standard deviation", f"{found['std']:.4g} ({_interval(found['std_interval'])})"),
            ("lowest, highest", f"{found['low']:.4g}, {found['high']:.4g}"),
        ]
        wanted = sorted({1, 2, 3, 5, 10, 20, len(known)} & set(range(1, len(known) + 1)))
        best = ", ".join(f"{n}: {found['expected_best'][n]:.4g}" for n in wanted)
        about.append(("expected best of n", f"{best} (a single run compares with the best of 1)"))
    return "\n\n".join([*parts, frame.columns(about)])


def _interval(ends: tuple[float, float]) -> str:
    return f"95 % interval {ends[0]:.4g} to {ends[1]:.4g}"
