"""The same configuration with several seeds: how stable it is, and the pair of the best seed.

<out>.seeds/  seed-<s>/            the finished pair of every seed
              seed-<s>.run/        what the seed in progress is made in
              stability.json       the report, written anew after every seed
<out>                              a copy of the pair that is best on validation
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pairtune import registry
from pairtune.data import Task
from pairtune.errors import ConfigError, InputError, NonFiniteError
from pairtune.pair.files import write_json
from pairtune.pair.lock import RunLock
from pairtune.pair.pair import Pair
from pairtune.training.config import RunConfig
from pairtune.training.folders import SEEDS
from pairtune.training.keep import save
from pairtune.training.run import as_config
from pairtune.training.several import Outcome, tune_each
from pairtune.training.stability import SeedRun, Stability, stability, text_free, why_failed

REPORT = "stability.json"


def tune_seeds(
    config: RunConfig | Mapping[str, Any] | str | Path, count: int, *, restart: bool = False
) -> tuple[Pair, Stability]:
    """Tune once for each of `count` seeds, from the configuration's own on; keep all pairs and copy the best to `out`.

    A call that was stopped goes on where it was; one that asks for more seeds adds those that lack. A seed sets the
    values of a new head, what a constraint re-initialises, the order of the rows and the dropout, not the data.

    Args:
        restart: remove what earlier calls left, and replace `out`.

    Raises `ConfigError` without `out` or with fewer than two seeds, `InputError` where `out` holds something else,
    `ResumeMismatch` where seeds of another configuration stand there, `NonFiniteError` when every seed met NaN.
    """
    config = as_config(config)
    if config.out is None or count < 2:
        raise ConfigError(
            ["several seeds need out" if config.out is None else f"seeds: expected 2 or more, found {count}"]
        )
    out = Path(config.out)
    folder = out.with_name(out.name + SEEDS)
    places = {seed: folder / f"seed-{seed}" for seed in range(config.seed, config.seed + count)}
    with RunLock(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if restart:
            for path in [*folder.glob("seed-*"), folder / "activations"]:
                shutil.rmtree(path, ignore_errors=True)
            (folder / REPORT).unlink(missing_ok=True)
        elif out.exists() and not (folder / REPORT).exists():
            raise InputError(f"{out} exists already and was not made with --seeds; choose another --out, or --restart")
        report = _tune_and_report(config, places, folder)
        if report.best is None:
            raise NonFiniteError(f"every seed met NaN; seed {report.runs[0].seed}: {report.runs[0].failed}")
        pair = Pair.load(places[report.best], device=config.device)
        save(pair, out, config.training.push_to_hub)
        shutil.rmtree(folder / "activations", ignore_errors=True)
    return pair, report


def _tune_and_report(config: RunConfig, places: Mapping[int, Path], folder: Path) -> Stability:
    """The report on all seeds; it is on disk after each, so that a stopped call leaves what it has."""
    runs: list[SeedRun] = []
    metric, rising, baseline, kind = "loss", False, None, "lm"
    found = None
    for seed, outcome in tune_each(config, "seed", places):
        if outcome.training and baseline is None:
            metric, rising = outcome.training["metric"], outcome.training["rising"]
            kind, baseline = _without_text(config, outcome, metric)
        runs.append(_run(seed, outcome, rising, baseline, kind))
        found = stability(runs, metric, rising, baseline, asked=len(places))
        write_json(folder / REPORT, found.to_dict())
        if outcome.broke is None:  # its checkpoints are of no more use
            shutil.rmtree(places[seed].with_name(places[seed].name + ".run"), ignore_errors=True)
    assert found is not None
    return found


def _run(seed: int, outcome: Outcome, rising: bool, baseline: float | None, kind: str) -> SeedRun:
    value = outcome.value
    if value is None:
        return SeedRun(seed, None, {}, failed=outcome.broke)
    losses = outcome.training.get("losses")
    pair = (losses[0], losses[1]) if losses else None
    failed = why_failed(value, rising, baseline, pair, kind)
    return SeedRun(seed, value, outcome.training["metrics"], pair, failed)


def _without_text(config: RunConfig, outcome: Outcome, metric: str) -> tuple[str, float | None]:
    """The kind of what was learnt, and the metric of the answer that needs no text, on validation.

    A task that is learnt as text (by a language model) is of the kind "lm", whatever it is a task of.
    """
    needs = registry.find("objectives", outcome.record["objective"]["name"]).needs or frozenset()
    if "labels" not in needs:
        return "lm", None
    task = Task.load(config.data)
    train, held = ([task.target(row) for row in task.split(name)] for name in ("train", "validation"))
    return task.kind, text_free(metric, task.kind, train, held)
