"""What changed from base to variant: weights, answers, calibration, flips, forgetting, expected words, and the path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, ClassVar

from pairtune.analysis import behaviour, calibration, flips, forgetting, path, typicality, weights
from pairtune.analysis.answers import Answers, gather, same_base, scorable, spread
from pairtune.analysis.calibration import Calibration
from pairtune.analysis.evaluate import Evaluation, compared
from pairtune.analysis.flips import Flips
from pairtune.analysis.forgetting import Forgetting, General
from pairtune.analysis.path import Path
from pairtune.analysis.predict import readable
from pairtune.analysis.progress import Steps
from pairtune.analysis.report import Document, Figure, Report, Section
from pairtune.analysis.typicality import TokenRatios
from pairtune.analysis.weights import Weights
from pairtune.pair.pair import Pair

if TYPE_CHECKING:
    from pairtune.data.split import Split
    from pairtune.data.task import Task

ROWS, PATH_ROWS, TEXTS = 1000, 120, 150  # of a split: that are answered, at each point of the path, token by token


@dataclass(frozen=True)
class Diff(Report):
    """What `diff` found. A section that the data do not allow is None; one that the pair does not allow says why.

    Attributes:
        base: the base's source. variants: name → where it comes from. task: the task's name.
        token_rows: split → (texts that were read token by token, texts that there are).
    """

    schema: ClassVar[str] = "pairtune.diff/1"
    base: str
    variants: dict[str, str]
    task: str | None
    weights: Weights
    behaviour: Evaluation | None
    calibration: Calibration | None
    flips: Flips | None
    forgetting: Forgetting
    tokens: TokenRatios
    path: Path
    token_rows: dict[str, tuple[int, int]]
    sampled: dict[str, tuple[int, int]]

    def document(self) -> Document:
        """The report as a page or on the terminal."""
        sections = [weights.section(self.weights)]
        if self.behaviour is not None and self.calibration is not None and self.flips is not None:
            sections.append(behaviour.section(self.behaviour, list(self.variants), self.sampled))
            sections += [calibration.section(self.calibration), flips.section(self.flips)]
        sections += [
            forgetting.section(self.forgetting),
            typicality.section(self.tokens, self.token_rows),
            path.section(self.path),
        ]
        facts = [("base", self.base)]
        facts += [("variant" if len(self.variants) == 1 else name, source) for name, source in self.variants.items()]
        facts += [("task", self.task or "none given: weights and general text only")]
        title = f"{_short(self.base)} → {', '.join(self.variants)}"
        return Document(title, facts, _figures(self), _kept(sections))


def diff(
    pairs: Pair | Mapping[str, Pair],
    task: Task | None = None,
    *,
    general: str | FilePath | Sequence[str] = forgetting.DEFAULT,
    everything: bool = False,
) -> Diff:
    """Compare a base with one variant, or with several side by side.

    Args:
        pairs: one pair (named "variant") or several by name; all on one base.
        task: the data to compare on; without it, the weights and the loss on general text.
        general: general text: a file, `demo:<name>`, or texts; used where the base is a causal language model.
        everything: take every row; otherwise at most 1,000 of a split are answered, 120 at each point of the path, and
            150 are read token by token, evenly spread.

    Raises `BaseMismatch` for pairs on different bases, `InputError` for a task that they cannot answer.
    """
    named = {"variant": pairs} if isinstance(pairs, Pair) else dict(pairs)
    first = same_base(named)
    rows, path_rows, texts = (None, None, None) if everything else (ROWS, PATH_ROWS, TEXTS)
    splits = [name for name in task.splits if name == "test" or name.startswith("ood/")] if task else []
    if task is not None and not splits:
        splits = [name for name in task.splits if name == "validation"] or list(task.splits)
    if task is not None:
        task = readable(first, task, list(dict.fromkeys([*splits, *path.scored_splits(task)])))
    plain = first.base.family == "causal" and all("tokens" in pair.views for pair in named.values())
    known = forgetting.general_task(general, rows)
    answerable = [name for name in splits if task and len(scorable(task, task.split(name))[0])]
    with Steps("diff", _steps(named, answerable, plain, task)) as step:
        moved = weights.weights(named, step)
        answers = None if task is None else gather(named, task, splits, most=rows, step=step)
        lost, losses = forgetting.general_text(named, known, step)
        given: dict[str, tuple[Task, Split]] = {}
        if task is not None:
            given = {name: (task, task.split(name)) for name in splits}
        if plain:
            given["general text"] = (known, known.split("test"))
        chosen = {name: (one, spread(part, texts)) for name, (one, part) in given.items()}
        ratios = typicality.token_ratios(named, chosen, step)
        ends = {model: {"nll": values} for model, values in losses.items()}
        asked = ({path.GENERAL: (known.split("test"), ends)} if losses else {}) | _asked(answers)
        along = path.path(named, task, known if plain else None, path_rows, step, asked)
    kept = {} if answers is None else forgetting.kept(answers)
    return Diff(
        base=first.base.source,
        variants={name: _source(pair, name) for name, pair in named.items()},
        task=None if task is None else task.name,
        weights=moved,
        behaviour=None if answers is None else compared(answers),
        calibration=None if answers is None else calibration.calibration(answers),
        flips=None if answers is None else flips.flips(answers),
        forgetting=Forgetting(lost, None, kept) if isinstance(lost, General) else Forgetting(None, lost, kept),
        tokens=ratios,
        path=along,
        token_rows={name: (len(chosen[name][1]), len(part)) for name, (_, part) in given.items()},
        sampled=_sampled(answers),
    )


def _steps(named: Mapping[str, Pair], splits: Sequence[str], plain: bool, task: Task | None) -> int:
    """How often `diff` says what it does; `splits` are those with rows that can be answered."""
    first = next(iter(named.values()))
    probe = bool(first.base.new_names) and task is not None and "train" in task.splits
    models = len(named) + (1 if probe or not first.base.new_names else 0)
    paths = sum(path.refusal(pair) is None for pair in named.values()) if splits or plain else 0
    return (
        sum(len(pair.layers) for pair in named.values())
        + probe
        + len(splits) * models
        + (models if plain else 0)
        + len(named)
        + paths * len(path.ALPHAS)
    )


def _sampled(answers: Answers | None) -> dict[str, tuple[int, int]]:
    return {} if answers is None else {name: (len(one.rows), one.total) for name, one in answers.splits.items()}


def _asked(answers: Answers | None) -> dict[str, tuple[Split, dict[str, path.Items]]]:
    """Split → (rows, model → what it said of them), from answers that are there."""
    if answers is None:
        return {}
    return {
        name: (one.rows, {model: side.items for model, side in one.sides.items()})
        for name, one in answers.splits.items()
    }


def _source(pair: Pair, name: str) -> str:
    """Where a variant comes from: its stack's tuners, or the checkpoint."""
    words = []
    for layer in pair.layers:
        tuner = layer.record.get("tuner")
        words.append(str(tuner["name"]) if isinstance(tuner, dict) else "full checkpoint")
    return f"{name} ({', then '.join(words)})" if words else name


def _short(source: str) -> str:
    return source.rstrip("/").rpartition("/")[2]


def _kept(sections: Sequence[Section]) -> list[Section]:
    return [section for section in sections if section.blocks or section.lead]


def _figures(found: Diff) -> list[Figure]:
    """The numbers for the top of the page; of several variants those of the first, by its name."""
    name = next(iter(found.variants))
    figures = []
    moved = next(iter(found.weights.variants.values()), None)
    if moved is not None and moved.total.relative is not None:
        below = f"of the base's norm, in {len(moved.tensors)} tensors"
        figures.append(Figure("Weights moved", weights.percent(moved.total.relative), below))
    if found.behaviour is not None and found.behaviour.differences:
        metric = behaviour.main_metric(found.behaviour)
        for split in list(found.behaviour.differences)[:2]:
            models = found.behaviour.metrics[split]
            base = next(model for model in models if model not in found.variants)
            change = found.behaviour.differences[split][name][metric]
            unit = " pts" if metric in behaviour.SHARES else ""
            value = f"{behaviour.shown(metric, change.mean, True)}{unit}"
            before = behaviour.shown(metric, models[base].get(metric, float("nan")))
            below = f"from {before} ({base})" if metric in models[base] else f"variant − {base}"
            figures.append(Figure(f"{metric}, {split}", value, below, change.tone(metric in behaviour.RISING)))
    if found.calibration is not None and found.calibration.changes:
        split = next(iter(found.calibration.changes))
        change = found.calibration.changes[split][name]
        value = f"{found.calibration.models[split][name].ece:.3f}"
        below = f"change {change.mean:+.3f}"
        figures.append(Figure(f"Calibration error, {split}", value, below, change.tone(rising=False)))
    if found.forgetting.general is not None:
        change = found.forgetting.general.changes[name]
        below = f"nats a token, from {found.forgetting.general.losses['base']:.3f}"
        figures.append(Figure("Loss on general text", f"{change.mean:+.3f}", below, change.tone(rising=False)))
    several = len(found.variants) > 1
    return [replace(one, label=f"{one.label}, {name}") for one in figures] if several else figures
