"""`steer`: from a pair and labelled rows to vectors that make the variant right more often (REFLEX).

"REFLEX: Self-Refining Explainable Fact-Checking via Disentangling Truth into Style and Substance", arXiv 2511.20233:
where base and variant disagree on training rows, their activations show what tuning gained and what it damaged; the
direction that raises the right verdict's probability most on held-out rows steers the variant.

    quadrants.py   greedy verdicts of both sides, four quadrants
    extract.py     Inference Vector and Knowledge Vector, the model's identity taken off; CAA, ITI, random
    anchor.py      block and strength by the gain in P(v_gold), on validation alone
    clean.py       explanations without what points against the vector (`pairtune generate --clean`)

Known from an abstract and a summary alone, so that the orientation of KV, the strengths in σ, the cleaning rule and
the words of `records.py` are ours. Departures: the base's verdicts come behind examples of the validation split; the
candidate for each row with its gold verdict known (an oracle) is left out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pairtune import registry
from pairtune.data.split import Split
from pairtune.editing.reflex.anchor import ALPHAS, Choice, anchor, probabilities
from pairtune.editing.reflex.extract import REFLEX, extract
from pairtune.editing.reflex.quadrants import examples, select
from pairtune.editing.reflex.reading import Reading
from pairtune.editing.reflex.report import Arm, Scores, SteerReport
from pairtune.editing.scrub.offtopic import GENERAL, OffTopic, read_texts
from pairtune.errors import InputError, MissingView
from pairtune.generation.steering import steered
from pairtune.generation.vectors import SteeringVectors, steerable
from pairtune.pair.disk import write_json
from pairtune.pair.staging import check_replaceable, staged_folder
from pairtune.pair.views import log_probs

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.editing.reflex.contrast import Fitted
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")
MOST = 400  # validation rows on which candidates are compared; beyond that, evenly spread ones
REPORT, CHOSEN = "report.json", "chosen.safetensors"
Progress = Callable[[int], AbstractContextManager[Callable[[str], None]]]


def steer(
    pair: Pair,
    task: Task,
    out: str | Path | None = None,
    *,
    direction: str = "logistic",
    settings: dict[str, Any] | None = None,
    shots: int = 4,
    blocks: Sequence[int] | None = None,
    alphas: Sequence[float] = ALPHAS,
    general: str = GENERAL,
    seed: int = 0,
    progress: Progress = lambda _: nullcontext(lambda _: None),
) -> SteerReport:
    """Find the vectors, choose one on validation, and say what it is worth beside the baselines.

    Args:
        task: a classification task with the splits train and validation; test and OOD splits are scored once.
        out: the folder for the vectors and the report; without it nothing is written.
        direction, settings: a method of the room generation, and its settings.
        shots: examples of the validation split before each of the base's prompts, in selecting rows alone.
        blocks: those that are read and tried, counted from 0; all by default. alphas: strengths that are tried, in σ.
        general: texts for the perplexity. seed: of the random direction and of the wrong verdicts of CAA and ITI.

    Raises `MissingView` for a pair without a delta or that writes nothing, `InputError` for a task that is no
    classification or lacks a split, for blocks that are not there and where base and variant disagree on too few rows.
    """
    _check(pair, task, blocks)
    if out is not None:
        check_replaceable(Path(out))
    method = registry.build("generation", direction, settings)
    texts = read_texts(general)
    reading = Reading(pair, task)
    train, validation = task.split("train"), _spread(task.split("validation"))
    quadrants = select(reading, train, examples(task, validation, shots))
    log.info("quadrants: %s", ", ".join(f"{name} {count:,}" for name, count in quadrants.counts.items()))
    found = extract(reading, train, quadrants, method, seed, blocks)
    rows, targets = reading.rows(validation), reading.targets(validation)
    candidates = {}
    with progress(sum(len(one.directions) for one in found.fitted.values())) as step:
        for name, one in found.fitted.items():
            candidates[name] = anchor(reading, rows, targets, one, alphas, step)
    best = {name: ranked[0] for name, ranked in candidates.items() if ranked}
    mine = [best[name] for name in REFLEX if name in best]
    top = max(mine, key=lambda one: one.gain)
    splits = {"validation": validation}
    splits |= {name: _labelled(task, name) for name in task.splits if name == "test" or name.startswith("ood/")}
    splits = {name: split for name, split in splits.items() if len(split)}
    report = SteerReport(
        pair.base.source, task.labels, quadrants.counts, shots,
        {"train": len(train), **{name: len(split) for name, split in splits.items()}},
        {name: float(np.bincount(reading.targets(split)).max() / len(split)) for name, split in splits.items()},
        found.probed, found.missing, candidates, _arms(reading, splits, best, found.fitted, texts),
        top.name if top.gain > 0 else None, general, None if out is None else str(out),
    )  # fmt: skip
    if out is not None:
        _write(Path(out), pair, report, found.fitted, best)
    return report


def _check(pair: Pair, task: Task, blocks: Sequence[int] | None) -> None:
    if not pair.layers:
        raise MissingView(f"{pair.base.source} is a base; base and variant are compared, so give a pair")
    if task.kind != "classification":
        raise InputError(f"{task.name}: verdicts are the labels of a classification task, this one is {task.kind}")
    if len(task.labels) < 2:
        raise InputError(f"{task.name}: {len(task.labels)} verdict(s); two are the fewest to choose between")
    lacking = [name for name in ("train", "validation") if name not in task.splits]
    if lacking:
        raise InputError(f"{task.name}: there is no {lacking[0]} split (splits: {', '.join(task.splits)})")
    if len(task.labels) > len(task.split("train")) / 10:
        raise InputError(
            f"{task.name}: the column {task.label!r} has {len(task.labels):,} different values in "
            f"{len(task.split('train')):,} training rows; verdicts are few, so name another column, or give more rows"
        )
    count = len(steerable(pair.base))
    wrong = [block for block in blocks or [] if not 0 <= block < count]
    if wrong:
        raise InputError(f"blocks: {pair.base.source} has the blocks 0 to {count - 1}, not {wrong[0]}")


def _arms(
    reading: Reading,
    splits: dict[str, Split],
    best: dict[str, Choice],
    fitted: dict[str, Fitted],
    texts: list[str],
) -> dict[str, Arm]:
    """Base, variant, and the variant under each direction's best choice, on every split."""
    rows = {name: (reading.rows(split), reading.targets(split)) for name, split in splits.items()}
    plain = {name: probabilities(reading, ids, None) for name, (ids, _) in rows.items()}
    with reading.pair.off():
        base = {name: probabilities(reading, ids, None) for name, (ids, _) in rows.items()}
        first = _perplexity(reading.pair, texts, None)
    scores = {name: Scores.of(base[name], targets, plain[name]) for name, (_, targets) in rows.items()}
    arms = {"base": Arm(None, scores, first)}
    scores = {name: Scores.of(plain[name], targets, None) for name, (_, targets) in rows.items()}
    arms["variant"] = Arm(None, scores, _perplexity(reading.pair, texts, None))
    for name, choice in best.items():
        vector = choice.vector(fitted[name])
        scores = {
            split: Scores.of(probabilities(reading, ids, vector), targets, plain[split])
            for split, (ids, targets) in rows.items()
        }
        arms[name] = Arm(choice, scores, _perplexity(reading.pair, texts, vector))
    return arms


def _perplexity(pair: Pair, texts: list[str], vector: SteeringVectors | None) -> float | None:
    """Of the side that is on, on plain texts, every position steered; None for an encoder-decoder."""
    if pair.base.family != "causal":
        return None
    total, tokens = 0.0, 0
    with steered(pair, vector, "all") if vector else nullcontext():
        for batch in OffTopic(pair, texts).batches:
            found, mask = log_probs(pair, batch)
            total -= float(found.double().sum())
            tokens += int(mask.sum())
    return math.exp(min(total / tokens, 700.0))


def _write(out: Path, pair: Pair, report: SteerReport, fitted: dict[str, Fitted], best: dict[str, Choice]) -> None:
    """The vectors, one σ behind every block; the chosen one at its strength; the report."""
    about = {"method": "REFLEX, arXiv 2511.20233", "model_type": pair.base.model.config.model_type}
    print_ = pair.base.fingerprint.weights
    with staged_folder(out) as staging:
        for name, one in fitted.items():
            directions = {block: (one.sigma[block] * at).float() for block, at in one.directions.items()}
            said = about | {"direction": name, "unit": "one standard deviation along the direction"}
            SteeringVectors(directions, said, print_).save(staging / f"{name}.safetensors")
        if report.chosen is not None:
            choice = best[report.chosen]
            said = about | {"direction": choice.name, "block": choice.block, "alpha": choice.alpha, "gain": choice.gain}
            vector = choice.vector(fitted[report.chosen])
            SteeringVectors(vector.directions, said, print_).save(staging / CHOSEN)
        write_json(staging / REPORT, report.to_dict())


def _spread(split: Split) -> Split:
    most = min(MOST, len(split))
    return split.select([i * len(split) // most for i in range(most)])


def _labelled(task: Task, name: str) -> Split:
    """A split's rows that have a verdict of the task."""
    split = task.split(name)
    return split.select([i for i, row in enumerate(split) if task.target(row) is not None])
