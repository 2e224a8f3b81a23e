"""Which detector suits a pair, found on ID data alone: classes held out of tuning play the part of OOD.

The variant was tuned on every class, so that holding a class out of the detectors alone would test nothing: to the
variant it would still be ID. So the pair's own recipe is tuned again, from the same base and by the card's settings,
without some of the classes; the detectors learn from the remaining classes and are asked to tell validation rows of
these from rows of the classes that neither tuning nor detectors have seen. Rounds hold out different classes.

What this can tell: how detectors rank on new topics in the language of the task (near OOD), where the real outside is
unknown. What it cannot: how they rank on other languages, styles, lengths or noise, nor the AUROC that this pair will
have; the pairs that are measured are stand-ins tuned on fewer classes. No OOD split is read.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pairtune.errors import InputError
from pairtune.ood.forms import available
from pairtune.ood.scoring import Scorer, inputs_of
from pairtune.pair.separation import separation

if TYPE_CHECKING:
    from pairtune.data.split import Split
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")
CONTROLS = ("length", "likelihood:base")  # shown beside the others, never chosen
SHARE = 4  # a quarter of the classes is held out
MOST = 500  # rows of a side


@dataclass(frozen=True)
class Choice:
    """What was measured: detector → AUROC (value, low, high) of each round; `held_out` the classes of each."""

    chosen: str
    auroc: dict[str, list[tuple[float, float, float]]]
    held_out: list[list[str]]


def choose(pair: Pair, task: Task, names: Sequence[str] | None = None, rounds: int = 2, seed: int = 0) -> Choice:
    """The detector with the highest mean AUROC against held-out classes.

    Args:
        names: the candidates; by default all that work on this pair.
        rounds: how many times the recipe is tuned again.

    Raises `InputError` for a task without (enough) classes, or a pair whose card does not tell its recipe.
    """
    config = recipe(pair)
    if task.modality != "text":
        raise InputError(f"{task.name}: detectors are chosen on texts; name one with --detector")
    if task.kind != "classification" or len(task.labels) < 4:
        raise InputError(
            f"{task.name}: to choose a detector, classes are held out; that needs a classification task with at least "
            f"4 classes, found {f'{len(task.labels)} of them' if task.labels else task.kind}: name one with --detector"
        )
    order = np.random.default_rng(seed).permutation(len(task.labels))
    size = max(1, len(task.labels) // SHARE)
    rounds = min(rounds, len(task.labels) // size)
    candidates = list(names or available(pair, task))
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in candidates}
    held_out = []
    for i in range(rounds):
        held = {task.labels[j] for j in order[i * size : (i + 1) * size]}
        held_out.append(sorted(held))
        log.info("round %d of %d: tuning again without %s", i + 1, rounds, ", ".join(sorted(held)))
        for name, area in _round(config, task, held, candidates).items():
            found[name].append(area)
    possible = [name for name in candidates if not name.startswith(CONTROLS)] or candidates
    best = max(possible, key=lambda name: float(np.mean([area[0] for area in found[name]])))
    return Choice(best, found, held_out)


def recipe(pair: Pair) -> dict[str, Any]:
    """The run settings that made the pair, without data. Raises `InputError` where the card does not tell them."""
    if len(pair.layers) != 1:
        raise InputError("a detector is chosen for pairs of one delta; name one with --detector")
    settings = pair.top.record.get("training", {}).get("identity", {}).get("settings")
    if settings is None:
        raise InputError(
            "this pair's card does not tell how it was tuned, so that it cannot be tuned again without some classes; "
            "name a detector with --detector"
        )
    return {**settings, "base": pair.base.source, "device": str(pair.base.device)}


def _round(config: dict[str, Any], task: Task, held: set[str], names: Sequence[str]) -> dict[str, Any]:
    from pairtune.training.run import tune

    kept = [label for label in task.labels if label not in held]
    columns = [*task.text, str(task.label)]
    inner = {name: _rows(task, task.split(name), held, inside=True) for name in ("train", "validation")}
    smaller = replace(task, labels=kept, splits=inner)
    with tempfile.TemporaryDirectory(prefix="pairtune-choose-") as place:
        for name, split in inner.items():
            lines = (json.dumps({key: row[key] for key in columns}) for row in split)
            (Path(place) / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        about = {"kind": task.kind, "text": list(task.text), "label": task.label, "labels": kept}
        again = tune({**config, "data": {"source": place, "separator": task.separator, "name": task.name, **about}})
    scorer = Scorer(again, names, task=smaller).fit(smaller)
    outer = [_rows(task, task.split(name), held, inside=False) for name in ("validation", "train")]
    inside = scorer.table(inputs_of(again, smaller, _few(inner["validation"])))
    outside = scorer.table([one for split in outer for one in inputs_of(again, smaller, _few(split))][:MOST])
    return {name: separation(inside[name], outside[name]).auroc for name in names}


def _rows(task: Task, split: Split, held: set[str], inside: bool) -> Split:
    """The rows of a split whose class is kept, or held out."""
    assert task.label is not None
    targets = [task.target(row) for row in split]
    rows = [i for i, target in enumerate(targets) if target is not None and (task.labels[target] in held) != inside]
    if not rows:
        raise InputError(f"{task.name}: no row is left when {len(held)} classes are held out; name a detector")
    return split.select(rows)


def _few(split: Split) -> Split:
    return split.select(range(0, len(split), max(1, -(-len(split) // MOST))))
