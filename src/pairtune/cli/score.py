"""is each input in distribution? the log ratio and other detectors, a threshold, which tokens carried a score"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairtune.cli import dotted, frame
from pairtune.errors import InputError

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.ood.calibration import Threshold
    from pairtune.ood.choosing import Choice
    from pairtune.pair.pair import Pair


def score(
    ctx: typer.Context,
    pair: Annotated[str, typer.Argument(help="A pair's folder, a PEFT folder, or a fine-tuned checkpoint.")],
    inputs: Annotated[
        Path | None, typer.Argument(help="A file of texts (JSONL, CSV, ...); a folder or list of images or sound.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="A task: how well test and OOD splits are told apart.")] = None,
    fit: Annotated[
        str | None, typer.Option(help="A task: calibrate a threshold on its validation split and keep it in the pair.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="With --fit: the share of ID inputs to be flagged; by default 0.05.")
    ] = None,
    choose: Annotated[
        bool, typer.Option("--choose", help="With --fit: find the detector by tuning again without some classes.")
    ] = False,
    detector: Annotated[
        list[str] | None, typer.Option(help="Detectors, as log-ratio:token; `pairtune methods ood` lists them.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="The text column(s) of the inputs.")] = None,
    answer: Annotated[str | None, typer.Option(help="The inputs' column of answers, for forms that score one.")] = None,
    mark: Annotated[
        bool, typer.Option("--mark", help="Demand in/out marks by the pair's threshold; given anyway where it has one.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show which tokens carried the score.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the scores here as JSONL; a stopped run goes on where it was.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="With --out: forget a run that was stopped.")] = False,
    base: Annotated[str | None, typer.Option(help="The base, where the pair does not name it.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout (JSONL for inputs).")] = False,
) -> None:
    """Score texts: a higher score means further from what the variant was tuned on.

    Give a file of texts, --data to measure how well OOD splits are told apart, or --fit to calibrate a threshold, by
    which inputs are then marked in or out. Settings of detectors are dotted flags: --detector.knn.k 5.

    --choose tunes the pair's own recipe again without some classes, twice, and takes the detector that tells these
    classes best from the others. It sees no OOD data; it can rank detectors on new topics of the task, not on other
    languages, styles or lengths, and takes twice as long as tuning did.
    """
    if [inputs, data, fit].count(None) != 2:
        raise InputError("give either a file of texts, --data TASK or --fit TASK")
    _only(rate is not None or choose, fit is not None, "--rate and --choose", "--fit TASK")
    _only(mark or explain or answer or out or restart or text, inputs is not None,
          "--text, --answer, --mark, --explain, --out and --restart", "a file of texts")  # fmt: skip
    _only(restart, out is not None, "--restart", "--out FILE")
    if inputs is not None and not inputs.exists():
        raise InputError(f"{inputs}: there is no such file")
    names = detector or None
    stems = list(dict.fromkeys(name.split(":")[0] for name in names or []))
    settings: dict[str, Any] = dotted.read(ctx.args, {"detector": stems}).get("detector", {})
    from pairtune.ood.forms import make_detectors
    from pairtune.pair.pair import Pair

    unnamed = [method for method in settings if method not in stems]
    if unnamed:
        raise InputError(f"--detector.{unnamed[0]}: this detector is not asked for; add --detector {unnamed[0]}")
    make_detectors(names or [], settings)  # faults in names and settings, before anything is loaded
    loaded = Pair.load(pair, base)
    if data is not None:
        task = _task(data, loaded)
        frame.emit(found := _separated(loaded, task, names, settings), json, text=table(found))
    elif fit is not None:
        _fit(loaded, Path(pair), _task(fit, loaded), names, settings, 0.05 if rate is None else rate, choose, json)
    else:
        assert inputs is not None
        from pairtune.cli import _scored

        wanted = _scored.Wanted(inputs, text, answer, mark, explain, out, restart, json)
        _scored.run(loaded, Path(pair), wanted, names, settings)


def _only(given: Any, fits: bool, flags: str, place: str) -> None:
    if given and not fits:
        raise InputError(f"{flags} go with {place}")


def _task(source: str, pair: Pair) -> Task:
    """The task, with the columns that the pair was tuned with."""
    from pairtune.cli.eval import task_of

    return task_of(source, None, None, pair)


def _separated(pair: Pair, task: Task, names: list[str] | None, settings: dict[str, Any]) -> dict[str, Any]:
    from pairtune.ood.scoring import Scorer, separate

    if not any(name.startswith("ood/") for name in task.splits):
        raise InputError(f"{task.name}: there is no OOD split to tell apart (splits: {', '.join(task.splits)})")
    return separate(pair, task, scorer=Scorer(pair, names, settings=settings, task=task))


def _fit(
    pair: Pair,
    folder: Path,
    task: Task,
    names: list[str] | None,
    settings: dict[str, Any],
    rate: float,
    choose: bool,
    as_json: bool,
) -> None:
    """Calibrate one detector, chosen or named, and keep it in the pair's folder."""
    from pairtune.ood import calibration, choosing
    from pairtune.ood.forms import default_names
    from pairtune.ood.scoring import Scorer

    if not folder.is_dir() or pair.card is None:
        raise InputError(f"{folder}: a threshold is kept in a pair's own folder, which has a pair.json")
    if not choose and len(names or [""]) > 1:
        raise InputError("--fit calibrates one detector: name one with --detector, or let --choose find it among them")
    if settings and choose:
        raise InputError("--choose compares detectors by their defaults; leave the dotted settings out")
    found: Choice | None = choosing.choose(pair, task, names) if choose else None
    name = found.chosen if found else (names or default_names(pair, task))[0]
    scorer = Scorer(pair, [name], settings=settings, task=task)
    threshold = calibration.calibrate(scorer, task, rate)
    checks = calibration.check(scorer, task, threshold)
    calibration.store(folder, scorer, threshold)
    report = {"threshold": threshold, "flagged": checks, "choice": found}
    frame.emit(report, as_json, text=_fitted(threshold, checks, found, folder))


def _fitted(threshold: Threshold, checks: dict[str, Any], choice: Choice | None, folder: Path) -> str:
    parts = []
    if choice:
        rows = [
            (name, *("{:.3f} ({:.3f}-{:.3f})".format(*area) for area in areas))
            for name, areas in sorted(choice.auroc.items(), key=lambda item: -sum(a[0] for a in item[1]))
        ]
        head = ("detector", *(f"AUROC, round {i + 1}" for i in range(len(choice.held_out))))
        parts.append(frame.columns(rows, head=head))
        held = "\n".join(f"round {i + 1} held out: {', '.join(one)}" for i, one in enumerate(choice.held_out))
        parts.append(f"{held}\n(held-out classes stood in for OOD: new topics of this task, nothing further away)")
    kept = f"out where {threshold.detector} > {threshold.value:.6g}; kept in {folder / 'pair.json'}"
    share = f"{threshold.expected:.2%} ({threshold.low:.2%} to {threshold.high:.2%})"
    of = f"of ID inputs will be flagged, asked {threshold.rate:.2%}; {threshold.count} {threshold.data['split']} rows"
    rows = [("threshold", kept), ("rate", f"{share} {of}")]
    rows += [(name, f"{one[0]:.2%} ({one[1]:.2%} to {one[2]:.2%}) flagged") for name, one in checks.items()]
    return "\n\n".join([*parts, frame.columns(rows)])


def table(found: dict[str, Any]) -> str:
    """Separation of every detector on every OOD split, with 95 % intervals."""
    rows = []
    for split, detectors in found.items():
        for name, one in detectors.items():
            area = "{:.3f} ({:.3f}-{:.3f})".format(*one.auroc)
            rows.append((split, name, area, f"{one.aupr_out[0]:.3f}", f"{one.aupr_in[0]:.3f}", f"{one.fpr95[0]:.3f}"))
    return frame.columns(rows, head=("split", "score", "AUROC (95 %)", "AUPR out", "AUPR in", "FPR at 95 % TPR"))
