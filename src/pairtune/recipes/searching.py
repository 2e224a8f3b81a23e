"""A search over merges against tasks: candidates are scored on a few validation rows, the best one is tested on others.

The search is `merging.search`; here its candidates get a model to live in and rows to answer.
"""

from __future__ import annotations

import json
import logging
import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from torch import Tensor

from pairtune.analysis.answers import Side, ask, scorable, spread
from pairtune.analysis.behaviour import RISING
from pairtune.analysis.path import MAIN
from pairtune.analysis.predict import Reader, readable
from pairtune.analysis.progress import Steps
from pairtune.analysis.searched import Searched, Tried
from pairtune.errors import InputError
from pairtune.merging.config.layer_recipe import entries
from pairtune.merging.engine.by_layer import Choice, layer_of
from pairtune.merging.engine.plan import Rule
from pairtune.merging.engine.run import prepare
from pairtune.merging.inputs.opening import open_sources
from pairtune.merging.search.journal import Trial
from pairtune.merging.search.loop import Found, search
from pairtune.merging.search.models import Merger
from pairtune.merging.search.space import Space
from pairtune.pair.apply import install_delta
from pairtune.pair.base import Base
from pairtune.pair.delta import Delta
from pairtune.pair.disk import replacing, write_json
from pairtune.pair.heads import HEAD_KINDS
from pairtune.pair.pair import Pair
from pairtune.pair.paired import Difference, compare
from pairtune.pair.parts import Module, Value
from pairtune.registry import build

if TYPE_CHECKING:
    from pairtune.data.split import Split
    from pairtune.data.task import Task

log = logging.getLogger("pairtune")
MERGE = "the merge"
RECIPE, REPORT = "recipe.yaml", "search.json"


@dataclass(frozen=True)
class Ground:
    """What merges are scored on: a task, the rows that choose among them, and the rows that no choice sees."""

    task: Task
    calibration: Split
    test: Split | None


class Seat:
    """A model of its own in which merged tensors are put to answer rows."""

    def __init__(self, base: Base):
        self.pair = Pair(base)

    def ask(self, tensors: Mapping[str, Tensor], task: Task, rows: Split) -> Side:
        """What the merged model says. Raises `DeltaMismatch` for tensors that do not fit."""
        base = self.pair.base
        known = {name: tensor for name, tensor in tensors.items() if base.names.memory(name) is not None}
        parts = {
            name: Module(tensor) if base.names.memory(name) in base.new_names else Value(tensor)
            for name, tensor in known.items()
        }
        installed = install_delta(base, Delta(parts, base=base.stored))
        try:
            return ask(Reader(self.pair, task), rows)
        finally:
            installed.off()


def search_merges(
    models: Mapping[str, str],
    tasks: Mapping[str, Task],
    first: Pair,
    out: Path,
    *,
    base: str | None = None,
    metric: str | None = None,
    rows: int = 100,
    jobs: int = 1,
    **options: Any,
) -> Searched:
    """Search over the merges of some models; recipe, report and journal are written into a folder.

    Args:
        models: short name → what `pairtune merge` takes.
        tasks: by name; with several, each is an objective and the Pareto front is kept.
        first: one of the models, loaded: its base (with the head, if it has a new one) is what the merges live in.
        out: the folder; a stopped search goes on there.
        metric: of all tasks; by default their main one.
        rows: calibration rows of each task, evenly spread over its validation split.
        options: `trials`, `minutes`, `sampler`, `select`, `seed` as in `merging.search.explore`.

    Raises `InputError` for tasks without validation rows or a metric that they do not have.
    """
    grounds = {name: _ground(name, first, task, rows) for name, task in tasks.items()}
    metric = _metric(tasks, metric)
    merger, paths = _merger(models, base or first.base.source, bool(first.base.new_names))
    seats: queue.SimpleQueue[Seat] = queue.SimpleQueue()
    for _ in range(jobs):
        seats.put(Seat(_own_base(first)))
    sign = 1 if metric in RISING else -1

    def evaluate(tensors: dict[str, Tensor]) -> dict[str, float]:
        seat = seats.get()
        try:
            said = {name: seat.ask(tensors, one.task, one.calibration) for name, one in grounds.items()}
        finally:
            seats.put(seat)
        return {name: sign * _value(side, metric, name) for name, side in said.items()}

    about = {
        "models": paths,
        "metric": metric,
        "tasks": {
            name: [one.task.name, len(one.calibration), one.calibration.fingerprint] for name, one in grounds.items()
        },
    }
    with Steps("search", options.get("trials") or len(merger.space.initial())) as step:
        found = search(
            merger, evaluate, jobs=jobs, folder=out, identity=about, progress=_told(step, sign, metric), **options
        )
    tested = _tested(found, merger, grounds, seats.get(), metric)
    recipe = _write_recipe(out, found, paths, base or first.base.source, merger)
    report = _report(found, grounds, metric, sign, tested, recipe)
    write_json(out / REPORT, json.loads(json.dumps(report.to_dict(), default=vars)))
    return report


def _told(step: Callable[[str], None], sign: int, metric: str) -> Callable[[Trial, int], None]:
    def tell(trial: Trial, _total: int) -> None:
        scores = ", ".join(f"{name} {sign * value:.4f}" for name, value in trial.scores.items())
        step(f"{trial.name}: {metric} {scores}")

    return tell


def _ground(name: str, first: Pair, task: Task, rows: int) -> Ground:
    if "validation" not in task.splits:
        raise InputError(
            f"{name}: has no validation split, and merges are not chosen on the rows that they are tested on"
        )
    task = readable(first, task, [split for split in ("validation", "test") if split in task.splits])
    there, _ = scorable(task, task.split("validation"))
    if not len(there):
        raise InputError(f"{name}: no row of the validation split has a target")
    test = scorable(task, task.split("test"))[0] if "test" in task.splits else None
    return Ground(task, spread(there, rows), test if test is not None and len(test) else None)


def _metric(tasks: Mapping[str, Task], metric: str | None) -> str:
    if metric is not None:
        return metric
    found = {name: MAIN[task.kind] for name, task in tasks.items()}
    if len(set(found.values())) > 1:
        said = ", ".join(f"{name}: {one}" for name, one in found.items())
        raise InputError(
            f"the tasks are measured in different things ({said}), whose mean means nothing; give --metric"
        )
    return next(iter(found.values()))


def _value(side: Side, metric: str, name: str) -> float:
    known = {**{key: float(np.mean(values)) for key, values in side.items.items()}, **side.metrics}
    if metric not in known:
        raise InputError(f"{name}: is not measured by {metric!r} (there are {', '.join(sorted(known))})")
    return known[metric]


def _merger(models: Mapping[str, str], base: str, headed: bool) -> tuple[Merger, dict[str, str]]:
    """The pool: the base first, unless the models have a head that it lacks."""
    sources, origin = open_sources(list(models.values()), base)
    assert origin is not None
    paths = dict(models) if headed else {"base": base, **models}
    pool = sources if headed else [origin, *sources]
    job = prepare(pool, origin, lambda _: Rule(build("merging", "linear"), (1.0,) * len(pool)))
    names = [step.name for step in job.steps]
    space = Space.of(list(paths), names, base=None if headed else 0)
    return Merger(job.models, job.base, space), paths


def _own_base(first: Pair) -> Base:
    """The pair's base once more, with the same head: what loaded the pair may have wrapped its modules."""
    base, kinds = first.base, {problem: kind for kind, problem in HEAD_KINDS.items()}
    kind = kinds.get(getattr(base.model.config, "problem_type", None) or "") if base.new_names else None
    if first.card is not None and first.card.task:
        kind = first.card.task.get("kind")
    return Base.load(base.source, task=kind, labels=base.labels, revision=base.revision)


def _tested(
    found: Found, merger: Merger, grounds: Mapping[str, Ground], seat: Seat, metric: str
) -> dict[str, dict[str, tuple[float, np.ndarray | None]]]:
    """Task → name → value on the test rows, and by row: the chosen merge and the initial design."""
    chosen = {MERGE: found.trials[found.best], **{one.name: one for one in found.trials if one.initial}}
    out: dict[str, dict[str, tuple[float, np.ndarray | None]]] = {}
    for label, trial in chosen.items():
        tensors = merger.tensors(found.space.choices(trial.point))
        for name, ground in grounds.items():
            if ground.test is not None:
                side = seat.ask(tensors, ground.task, ground.test)
                out.setdefault(name, {})[label] = (_value(side, metric, name), side.items.get(metric))
    return out


def _layers(found: Found, merger: Merger) -> dict[str, Choice]:
    """Layer → its choice."""
    home = merger.base or merger.models[0]
    names = sorted(frozenset().union(home.names, *(model.names for model in merger.models)))
    made = {layer_of(name).name: found.choices[found.space.place(name)] for name in names}
    order = [group.name for group in found.space.groups]
    return dict(sorted(made.items(), key=lambda one: order.index(one[0])))


def _write_recipe(out: Path, found: Found, paths: Mapping[str, str], base: str, merger: Merger) -> Path:
    """The recipe of the best merge: what `pairtune merge` runs."""
    place = list(paths.values())
    values = {"base": base, "models": place, "layers": entries(place, _layers(found, merger))}
    text = f"# The best of {len(found.trials)} merges; run it with: pairtune merge {out / RECIPE} --out FOLDER\n"
    text += yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    with replacing(out / RECIPE, len(text.encode())) as file:
        file.write(text.encode())
    return out / RECIPE


def _report(
    found: Found,
    grounds: Mapping[str, Ground],
    metric: str,
    sign: int,
    tested: Mapping[str, Mapping[str, tuple[float, np.ndarray | None]]],
    recipe: Path,
) -> Searched:
    trials = [
        Tried(one.name, one.initial, {name: sign * value for name, value in one.scores.items()}) for one in found.trials
    ]
    members = [f"only {name}" for name in found.space.pool]
    values = {one.name: np.mean(list(one.scores.values())) for one in found.trials if one.initial}
    gaps: dict[str, dict[str, Difference]] = {}
    for task, said in tested.items():
        mine = said[MERGE][1]
        gaps[task] = {
            label: compare(theirs, mine)
            for label, (_, theirs) in said.items()
            if label != MERGE and mine is not None and theirs is not None
        }
    order = {group.name: choice for group, choice in zip(found.space.groups, found.choices, strict=True)}
    return Searched(
        pool=list(found.space.pool),
        metric=metric,
        tasks=list(grounds),
        rows={name: len(one.calibration) for name, one in grounds.items()},
        trials=trials,
        best=found.best,
        front=found.front,
        best_of_pool=max(members, key=lambda name: values[name]),
        test={task: {label: value for label, (value, _) in said.items()} for task, said in tested.items()},
        differences=gaps,
        layers=[(layer, _said(choice, found.space.pool)) for layer, choice in order.items()],
        recipe=str(recipe),
        seconds=round(found.seconds, 1),
        skipped={name: "has no test rows with a target" for name, one in grounds.items() if one.test is None},
    )


def _said(choice: Choice, pool: Sequence[str]) -> str:
    """`ties of desk, shop; density 0.07, scale 1.2`."""
    names = [pool[i] for i in choice.models]
    if choice.operator == "keep":
        return f"{names[0]} as it is"
    if choice.operator == "slerp":
        return f"slerp from {names[0]} to {names[1]}, t = {dict(choice.settings)['t']:g}"
    if choice.operator == "ties":
        return f"ties of {', '.join(names)}; " + ", ".join(f"{name} {value:g}" for name, value in choice.settings)
    weighted = ", ".join(f"{name} {weight:g}" for name, weight in zip(names, choice.weights, strict=True))
    return f"{choice.operator}: {weighted}"
