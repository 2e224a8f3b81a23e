"""How a paper's claim counts: paired differences, a bootstrap over items and seeds, and a rule written before the run.

A reproduction is one file of this folder. It names its paper's slug, the claim in one sentence, the parts of the claim
and the rule of each, and a function that fills a `Results`: for every arm and seed the per-item outcomes on every
split. Whatever was computed is kept in the working folder, so that a stopped run continues where it was.
"""

from __future__ import annotations

import importlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pairtune.errors import InputError
from pairtune.pair.card import library_versions
from pairtune.pair.disk import read_json, write_json
from pairtune.registry import suggest

log = logging.getLogger("pairtune")
Verdict = Literal["holds", "holds in part", "does not hold", "undecided"]
RESAMPLES = 2000
LEVEL = 0.90


@dataclass(frozen=True)
class Part:
    """One part of a claim: the method's mean outcome exceeds the baseline's on some splits, or nearly reaches it.

    Attributes:
        name: short name, unique in the claim.
        method, baseline: names of the arms.
        splits: the splits over which items are pooled.
        worth: the smallest difference worth having; an interval wholly below it counts against the claim.
        counts: whether the part's verdict enters that on the claim; else it is only published.
        margin: by how much the method may fall short, where the claim is that it is as good; then nothing is asked of
            `worth`.
    """

    name: str
    method: str
    baseline: str
    splits: tuple[str, ...]
    worth: float = 0.0
    counts: bool = True
    margin: float = 0.0

    @property
    def rule(self) -> str:
        """The deciding rule in words."""
        where = ", ".join(self.splits)
        if self.margin:
            return (
                f"{self.method} − {self.baseline} on {where}: holds where the {LEVEL:.0%} interval lies above "
                f"-{self.margin:g}, does not hold where it lies below that, undecided otherwise"
            )
        text = f"{self.method} − {self.baseline} on {where}: holds where the {LEVEL:.0%} interval lies above 0"
        against = "below 0" if not self.worth else f"below {self.worth:g}, the smallest effect worth having"
        return f"{text}, does not hold where it lies {against}, undecided otherwise"


@dataclass
class Results:
    """Outcomes by arm, seed and split: one number an item (1/0 for right/wrong, or a negative loss)."""

    folder: Path
    outcomes: dict[str, dict[int, dict[str, list[float]]]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, settings: dict[str, Any]) -> Results:
        """The results in a working folder; what other settings left there is refused."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "results.json"
        if not path.exists():
            results = cls(folder, notes={"settings": settings})
            results._write()
            return results
        stored = read_json(path)
        if stored["notes"]["settings"] != json.loads(json.dumps(settings)):
            raise InputError(f"{folder}: holds results of other settings; choose another --work folder or delete it")
        outcomes = {arm: {int(s): v for s, v in seeds.items()} for arm, seeds in stored["outcomes"].items()}
        return cls(folder, outcomes, stored["notes"])

    def missing(self, arm: str, seed: int) -> bool:
        """Whether this arm still has to be run with this seed."""
        return seed not in self.outcomes.get(arm, {})

    def add(self, arm: str, seed: int, by_split: dict[str, Any]) -> None:
        """Keep one run's outcomes."""
        kept = {split: np.asarray(values, dtype=float).tolist() for split, values in by_split.items()}
        self.outcomes.setdefault(arm, {})[seed] = kept
        self._write()

    def note(self, name: str, value: Any) -> None:
        """Keep a choice made on the way (a learning rate, a size)."""
        self.notes[name] = value
        self._write()

    def choose(
        self, name: str, rates: Sequence[float], trial: Callable[[float], float], what: str = "validation accuracy"
    ) -> float:
        """The learning rate of an arm with the best validation figure, chosen once; each trial is kept.

        A loss is best where it is lowest. Of equal figures, the first in `rates` wins.
        """
        tried = dict(self.notes.get(f"{what}, {name}", {}))
        for rate in rates:
            if str(rate) not in tried:
                tried[str(rate)] = float(trial(rate))
                self.note(f"{what}, {name}", tried)
                log.info("%s, learning rate %g: %s %.4f", name, rate, what, tried[str(rate)])
        best = (min if "loss" in what else max)(rates, key=lambda rate: tried[str(rate)])
        self.note(f"learning rate, {name}", best)
        return best

    def table(self, arm: str, splits: tuple[str, ...]) -> np.ndarray:
        """[seeds, items] of an arm, the splits' items side by side."""
        seeds = sorted(self.outcomes[arm])
        return np.array([np.concatenate([self.outcomes[arm][seed][split] for split in splits]) for seed in seeds])

    def _write(self) -> None:
        write_json(self.folder / "results.json", {"outcomes": self.outcomes, "notes": self.notes})


@dataclass(frozen=True)
class Experiment:
    """A further experiment of a reproduction, with results of its own in a folder of its own.

    Attributes:
        name: short name, the folder's, too. title: what it measures, in one sentence.
        run: fills its results; it also gets its settings and the finished results of the first experiment.
        settings: what differs from the reproduction's settings.
    """

    name: str
    title: str
    parts: tuple[Part, ...]
    run: Callable[[Results, dict[str, Any], Results], None]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Reproduction:
    """One paper's claim, as it is measured here.

    Attributes:
        more: experiments after the first.
        reading: what the measured verdict is likely due to, written after the run.
    """

    slug: str
    paper: str
    claim: str
    module: str
    verb: str
    parts: tuple[Part, ...]
    run: Callable[[Results, dict[str, Any]], None]
    settings: dict[str, Any]
    more: tuple[Experiment, ...] = ()
    reading: str = ""


def difference(method: np.ndarray, baseline: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean paired difference of two [seeds, items] tables and its 90 % bootstrap interval over seeds and items."""
    if method.shape != baseline.shape:
        raise ValueError(f"the arms have {method.shape} and {baseline.shape} outcomes")
    gap = method - baseline
    generator = np.random.default_rng(seed)
    drawn = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        seeds = generator.integers(0, gap.shape[0], gap.shape[0])
        items = generator.integers(0, gap.shape[1], gap.shape[1])
        drawn[i] = gap[seeds].mean(axis=0)[items].mean()
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(gap.mean()), float(low), float(high)


def judge(low: float, high: float, worth: float) -> Verdict:
    """The verdict on one part from its interval."""
    if low > 0:
        return "holds"
    return "does not hold" if high < max(worth, 0.0) or high < 0 else "undecided"


def overall(verdicts: list[Verdict]) -> Verdict:
    """The verdict on a claim of several parts."""
    if len(set(verdicts)) == 1:
        return verdicts[0]
    return "holds in part" if "holds" in verdicts else "undecided" if "undecided" in verdicts else "does not hold"


def report(reproduction: Reproduction, results: Results, more: dict[str, Results]) -> dict[str, Any]:
    """Everything that is published of a finished run; `more`: the further experiments' results by name."""
    found = _measured(reproduction.parts, results)
    further = {one.name: {"title": one.title, **_measured(one.parts, more[one.name])} for one in reproduction.more}
    parts = [part for one in (found, *further.values()) for part in one["parts"]]
    return {
        "paper": reproduction.paper,
        "claim": reproduction.claim,
        "rule": "; ".join(part["rule"] for part in parts if part["counts"]),
        "verdict": overall([part["verdict"] for part in parts if part["counts"]]),
        **found,
        "module": reproduction.module,
        "verb": reproduction.verb,
        "versions": library_versions(),
        "seconds": round(sum(one["seconds"] for one in (found, *further.values())), 1),
        **({"more": further} if further else {}),
        **({"reading": reproduction.reading} if reproduction.reading else {}),
    }


def _measured(measured: tuple[Part, ...], results: Results) -> dict[str, Any]:
    """One experiment's parts, settings, choices, seeds, numbers and seconds."""
    parts = []
    for part in measured:
        mean, low, high = difference(results.table(part.method, part.splits), results.table(part.baseline, part.splits))
        parts.append({**asdict(part), "rule": part.rule, "difference": mean, "interval": [low, high]})
        parts[-1]["verdict"] = judge(low + part.margin, high + part.margin, part.worth)
    arms = {}
    for arm, seeds in results.outcomes.items():
        by_split = {}
        for split in next(iter(seeds.values())):
            means = [float(np.mean(run[split])) for run in seeds.values()]
            by_split[split] = {
                "mean": float(np.mean(means)),
                "sd": float(np.std(means, ddof=1)) if len(means) > 1 else 0,
            }
        arms[arm] = by_split
    return {
        "parts": parts,
        "settings": results.notes["settings"],
        "choices": {k: v for k, v in results.notes.items() if k not in ("settings", "seconds")},
        "seeds": sorted(next(iter(results.outcomes.values()))),
        "numbers": arms,
        "seconds": round(results.notes.get("seconds", 0.0), 1),
    }


def names() -> list[str]:
    """Slugs of the reproductions there are: the files of this folder that hold one."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(p.stem.replace("_", "-") for p in files if "\nREPRODUCTION = " in p.read_text(encoding="utf-8"))


def load(slug: str) -> Reproduction:
    """The reproduction of that slug. Raises `InputError` that names the nearest."""
    if slug not in names():
        raise InputError(f"there is no reproduction {slug!r}{suggest(slug, names())} (there are {', '.join(names())})")
    return importlib.import_module(f"pairtune.reproductions.{slug.replace('-', '_')}").REPRODUCTION


def execute(reproduction: Reproduction, work: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Run what is still missing and report."""
    unknown = sorted(changes.keys() - reproduction.settings.keys())
    if unknown:
        raise InputError(
            f"{reproduction.slug} has no setting {unknown[0]!r}{suggest(unknown[0], reproduction.settings)}"
        )
    settings = reproduction.settings | changes
    results = Results.open(work, settings)
    with timed(results):
        reproduction.run(results, settings)
    more: dict[str, Results] = {}
    for one in reproduction.more:
        own = reproduction.settings | one.settings | changes
        more[one.name] = Results.open(work / one.name, own)
        with timed(more[one.name]):
            one.run(more[one.name], own, results)
    return report(reproduction, results, more)


@contextmanager
def timed(results: Results) -> Iterator[None]:
    """Add the time spent inside, also where it is stopped: by the clock, and by the processors, whatever else ran."""
    clocks = {"seconds": time.monotonic, "processor seconds": time.process_time}
    before = {name: float(results.notes.get(name, 0.0)) - clock() for name, clock in clocks.items()}
    try:
        yield
    finally:
        for name, clock in clocks.items():
            results.note(name, before[name] + clock())
