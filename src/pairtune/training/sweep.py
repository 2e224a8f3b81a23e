"""A sweep over learning rates: one seed, the validation split decides, and the best rate is the one that is kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pairtune import registry
from pairtune.errors import ConfigError, InputError, NonFiniteError
from pairtune.pair.pair import Pair
from pairtune.training.config import RunConfig
from pairtune.training.folders import SWEEP
from pairtune.training.keep import push
from pairtune.training.run import as_config
from pairtune.training.several import tune_each

AROUND = (0.1, 0.3, 1.0, 3.0, 10.0)  # times the tuner's own rate, where no rates are named


@dataclass(frozen=True)
class Point:
    """One rate that was tried: its validation metrics, or why it failed."""

    lr: float
    metrics: dict[str, float]
    failed: str | None = None


@dataclass(frozen=True)
class Sweep:
    """All rates, the metric that decided and the rate that won."""

    points: list[Point]
    metric: str
    best: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def sweep(
    config: RunConfig | Mapping[str, Any] | str | Path, rates: Sequence[float] | None = None
) -> tuple[Pair, Sweep]:
    """Tune once for each learning rate and keep the pair of the best; all with the run's seed and settings.

    Args:
        rates: learning rates; by default five around the tuner's own, from a tenth of it to ten times it.

    A rate at which the run meets NaN counts as failed. The runs stand in `<out>.sweep/` until the best is chosen by the
    validation metric (`training.metric`); a sweep that was stopped goes on where it was. Raises `ConfigError` without
    `out` or for a recipe, `NonFiniteError` when every rate failed.
    """
    config = as_config(config)
    if config.out is None or config.stages:
        raise ConfigError(
            ["a sweep needs out" if config.out is None else "a recipe's stages cannot be swept"], "the sweep"
        )
    out = Path(config.out)
    if out.exists():
        raise InputError(f"{out} exists already; choose another --out")
    if not rates:
        own = registry.load("tuners", config.tuner.name).default_lr
        rates = [own * factor for factor in AROUND]
    folder = out.with_name(out.name + SWEEP)
    points: list[Point] = []
    metric, rising = "loss", False
    for rate, found in tune_each(config, "lr", {rate: _place(folder, rate) for rate in sorted(set(rates))}):
        points.append(Point(rate, found.training.get("metrics", {}), found.broke))
        if found.training:
            metric, rising = found.training["metric"], found.training["rising"]
    done = [point for point in points if point.failed is None]
    if not done:
        raise NonFiniteError(f"every learning rate of the sweep failed; the lowest: {points[0].failed}")
    best = (max if rising else min)(done, key=lambda point: point.metrics[f"validation {metric}"])
    place = _place(folder, best.lr)
    for suffix in ("", ".run"):
        os.replace(f"{place}{suffix}", f"{out}{suffix}")
    shutil.rmtree(folder, ignore_errors=True)
    pair = Pair.load(out)
    push(out, config.training.push_to_hub)
    return pair, Sweep(points, metric, best.lr)


def _place(folder: Path, rate: float) -> Path:
    return folder / f"lr-{rate:g}"
