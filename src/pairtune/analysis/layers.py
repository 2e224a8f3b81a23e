"""Which layers of a pair are sharp or lag behind on its path, and what thinning the change of those that do is worth.

Sharpness as in `sharpness.py`, stragglers as in `layer_paths.py`, both on rows of the ID training split alone; the
mitigation as in `thinning.py`, picked on ID validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pairtune.analysis.answers import scorable, spread
from pairtune.analysis.layer_paths import PLACES, LayerPath, agreement, layer_groups, layer_paths, stragglers
from pairtune.analysis.path import MAIN, Items, Parts
from pairtune.analysis.progress import Steps
from pairtune.analysis.row_loss import RowLoss
from pairtune.analysis.sharpness import average_case, worst_case
from pairtune.analysis.sweep import ALPHAS, VALIDATION, Route, best
from pairtune.analysis.thinning import CONTROLS, KEPT, Thinned, Thinning

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.pair.line import Line

ROWS = 64  # of the training split, for sharpness and the layers' paths
RHO_WORST, RHO_AVERAGE = 0.004, 0.1  # radii as shares of each weight's size
ITERATIONS, DRAWS = 8, 5


@dataclass(frozen=True)
class Sharpness:
    """Worst and average case at a point, in the loss's unit; with normalised logits, None for single numbers."""

    worst: float
    average: float
    worst_normalised: float | None = None
    average_normalised: float | None = None


@dataclass(frozen=True)
class LayerFacts:
    """One layer: sharpness at the path's end, what its own path and its mirror say, its number of weights."""

    worst: float
    average: float
    barrier: float
    lag: float
    mirror_lag: float
    path: LayerPath
    weights: int
    straggler: bool


@dataclass(frozen=True)
class Layers:
    """What was found.

    Attributes:
        rows: training rows used. whole: alpha → sharpness of all weights together.
        overlap: how much of the choice of stragglers the mirror, and single places of the path, agree with (Jaccard).
        mitigation: the stragglers thinned; None where there are none or no validation split.
        controls: other layers, as many, thinned to the same share.
        preferred: whether validation prefers the thinned path to the plain one.
    """

    metric: str
    rows: int
    whole: dict[str, Sharpness]
    layers: dict[str, LayerFacts]
    stragglers: list[str]
    overlap: tuple[float, float]
    mitigation: Thinned | None
    controls: list[Thinned]
    preferred: bool


def of_route(way: Route, task: Task, parts: Parts, said: Mapping[str, Items]) -> Layers:
    """Ask the layers of a route; `said`: what `along` measured on it over `ALPHAS`, by split.

    Raises `MissingView` where a delta is no change of weights, `InputError` for a model without blocks or a task
    without training rows.
    """
    line = way.line()
    rows = spread(scorable(task, task.split("train"))[0], ROWS)
    with way.pair.off():
        groups = layer_groups(line.model, line.start)
        picked = ALPHAS[best(said[VALIDATION], task.kind)] if VALIDATION in said else 1.0
        points = list(dict.fromkeys((0.0, picked, 1.0)))
        tries = len(KEPT) + 1 + CONTROLS
        with Steps("layers", len(points) + 2 * len(groups) + tries) as step:
            loss = RowLoss.of(way.pair, task, rows)
            whole = {f"{alpha:g}": _sharpness(line, alpha, loss, task.kind != "regression", step) for alpha in points}
            paths = layer_paths(line, groups, loss.mean, PLACES, step)
            lagging = stragglers({name: one.lag for name, one in paths.items()})
            facts = _facts(line, groups, loss, paths, lagging, step)
            mitigation, controls, preferred = None, [], False
            if lagging and VALIDATION in said:
                thinning = Thinning(way, task.kind, parts, said, groups, line, step)
                mitigation = thinning.of(lagging)
                preferred = thinning.prefers(mitigation)
                controls = thinning.controls(lagging, mitigation.keep)
    agreed = agreement(paths, lagging)
    return Layers(MAIN[task.kind], len(rows), whole, facts, lagging, agreed, mitigation, controls, preferred)


def _sharpness(line: Line, alpha: float, loss: RowLoss, normal: bool, step: Callable[[str], None]) -> Sharpness:
    step(f"sharpness at alpha {alpha:g}")
    found = []
    with line.at(alpha):
        for one in (loss, *((replace(loss, normal=True),) if normal else ())):
            names = list(line.start)
            found.append(worst_case(line.model, one, loss.batches, RHO_WORST, names, ITERATIONS))
            found.append(average_case(line.model, one, loss.batches, RHO_AVERAGE, names, DRAWS))
    return Sharpness(*found)


def _facts(
    line: Line,
    groups: dict[str, list[str]],
    loss: RowLoss,
    paths: dict[str, LayerPath],
    lagging: list[str],
    step: Callable[[str], None],
) -> dict[str, LayerFacts]:
    facts = {}
    for name, group in groups.items():
        step(f"sharpness of layer {name}")
        with line.at(1.0):
            worst = worst_case(line.model, loss, loss.batches, RHO_WORST, group, ITERATIONS)
            average = average_case(line.model, loss, loss.batches, RHO_AVERAGE, group, DRAWS)
        path, weights = paths[name], sum(line.start[one].numel() for one in group)
        own = path.barrier, path.lag, path.mirror_lag
        facts[name] = LayerFacts(worst, average, *own, path, weights, name in lagging)
    return facts
