"""Keep the point of a path that was picked on validation as a pair of its own (WiSE-FT, arXiv 2109.01903)."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pairtune.analysis.answers import ask
from pairtune.analysis.path import MAIN, scored_splits
from pairtune.analysis.predict import Reader
from pairtune.analysis.sweep import VALIDATION, Route, Sweep, route
from pairtune.errors import InputError, PairtuneError
from pairtune.pair.apply import install_delta
from pairtune.pair.card import BaseRecord, Card
from pairtune.pair.line import delta_of
from pairtune.pair.pair import Layer, Pair

if TYPE_CHECKING:
    from pairtune.data.task import Task

log = logging.getLogger("pairtune")
ROWS = 64  # of validation, on which the saved pair must answer as the point did
TOLERANCE = {"float32": 1e-4, "float64": 1e-6}  # of a row's loss; other types round more
OTHERS = 5e-2


def keep(
    pairs: Pair | Mapping[str, Pair], task: Task, found: Sweep, folder: Path, parents: Sequence[str] = ()
) -> dict[str, Any]:
    """Save the picked point, load it again and compare its answers on validation before it is kept.

    Args:
        pairs: as in `sweep`, whose result `found` is.
        parents: where the pairs come from, for the card.

    Returns: folder, alpha, and the largest difference of a row's loss between the saved pair and the point.

    Raises `InputError` where no alpha was picked, or where it is the base's; `PairtuneError` where the answers differ
    (nothing is kept then).
    """
    way = route(pairs)
    if found.chosen is None:
        raise InputError(f"{task.name}: no alpha was picked, for want of a validation split; nothing was saved")
    alpha = found.chosen.alpha
    if alpha == 0 and way.start == "base":
        raise InputError("on validation the base itself is best (alpha = 0), so that there is no delta to save")
    rows = scored_splits(task)[VALIDATION]
    rows = rows.select(range(min(ROWS, len(rows))))
    with way.at(alpha):
        expected = ask(Reader(way.pair, task), rows).items
    last = list(pairs.values())[-1] if isinstance(pairs, Mapping) else pairs
    _write(way, last, found, folder, parents)
    again = ask(Reader(Pair.load(folder), task), rows).items
    metric = "nll" if "nll" in expected else MAIN[task.kind]
    difference = float(np.abs(expected[metric] - again[metric]).max())
    dtype = str(way.pair.base.dtype).removeprefix("torch.")
    if not difference <= TOLERANCE.get(dtype, OTHERS):
        shutil.rmtree(folder)
        raise PairtuneError(f"the saved pair's {metric} differs from the point's by {difference:.3g}; nothing was kept")
    log.info("saved the point at alpha = %g in %s (largest difference of a row: %.1g)", alpha, folder, difference)
    return {"folder": str(folder), "alpha": alpha, "largest_difference": difference, "rows": len(rows)}


def _write(way: Route, last: Pair, found: Sweep, folder: Path, parents: Sequence[str]) -> None:
    """The point's folder; the pair is as it was afterwards. `last`: the pair whose card tells of the task."""
    assert found.chosen is not None
    pair, alpha = way.pair, found.chosen.alpha
    with pair.off():
        delta = delta_of(pair, way.line(), alpha)
        installed = install_delta(pair.base, delta)
        try:
            point = Pair(pair.base, [Layer(installed, lambda: delta)], tokenizer=pair.tokenizer)
            known = last.card
            update: dict[str, Any] = {
                "task": known.task if known else None,
                "seed": known.seed if known else None,
                "metrics": {f"{split} {found.metric}": value for split, value in found.chosen.values.items()},
                "parents": list(parents),
                "notes": [
                    f"alpha = {alpha:g} from {way.start} to {way.end}, picked on ID validation by {found.metric}"
                ],
            }
            point.save(folder, Card(base=BaseRecord.of(pair.base), stack=[], **update))
        finally:
            installed.off()
