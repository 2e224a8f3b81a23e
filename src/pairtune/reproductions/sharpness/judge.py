"""Which measure goes with accuracy out of distribution, over a grid of tuned models: rank correlations and their luck.

tau is Kendall's tau-b of a measure with OOD accuracy at the alpha that validation picks; for a measure of sharpness the
claim is a negative one. Since the learning rate drives both, the tau within models of one learning rate, averaged over
the rates, stands beside it. What the choice of layers is worth, a permutation test says: as many layers of each model
drawn at random, 2,000 times, instead of its stragglers. No OOD row has a part in the choice of the stragglers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

DRAWS = 2000
MEASURES = (
    "global",
    "global, average",
    "global, normalised",
    "mean of layers",
    "stragglers",
    "stragglers, normalised",
    "barrier",
)
Facts = Mapping[str, Any]


def tau(measure: Sequence[float] | np.ndarray, outcome: Sequence[float] | np.ndarray) -> float:
    """Kendall's tau-b; 0 where either side is constant."""
    from scipy.stats import kendalltau

    result: Any = kendalltau(measure, outcome)
    found = float(result.statistic)
    return found if np.isfinite(found) else 0.0


def table(runs: Sequence[Facts]) -> dict[str, dict[str, Any]]:
    """Measure → tau with OOD accuracy (90 % interval over models) and with the gain, Pearson's r, tau within rates."""
    found = {}
    outcome, gain = [run["OOD"] for run in runs], [run["gain"] for run in runs]
    for name in MEASURES:
        values = [run[name] for run in runs]
        found[name] = {
            "tau, OOD": tau(values, outcome),
            "interval": _interval(values, outcome),
            "tau, gain": tau(values, gain),
            "pearson, OOD": _pearson(values, outcome),
            "tau within rates": within(runs, values),
        }
    return found


def within(runs: Sequence[Facts], values: Sequence[float]) -> float:
    """The mean over learning rates of tau among the models of that rate."""
    rates = sorted({run["lr"] for run in runs})
    parts = []
    for rate in rates:
        here = [i for i, run in enumerate(runs) if run["lr"] == rate]
        parts.append(tau([values[i] for i in here], [runs[i]["OOD"] for i in here]))
    return float(np.mean(parts))


def permuted(runs: Sequence[Facts]) -> dict[str, float]:
    """How often layers drawn at random predict as well as the stragglers: by tau, and by tau within rates.

    p = (1 + draws whose tau is at least as negative) / (1 + draws).
    """
    outcome = [run["OOD"] for run in runs]
    judges: dict[str, Callable[[Sequence[float]], float]] = {
        "tau": lambda values: tau(values, outcome),
        "tau within rates": lambda values: within(runs, values),
    }
    own = [run["stragglers"] for run in runs]
    observed = {name: judge(own) for name, judge in judges.items()}
    random = {name: [] for name in judges}
    for draw in range(DRAWS):
        values = at_random(runs, np.random.default_rng(draw))
        for name, judge in judges.items():
            random[name].append(judge(values))
    found: dict[str, float] = {"draws": DRAWS}
    for name, values in random.items():
        found[f"{name}, stragglers"] = observed[name]
        found[f"{name}, random layers (mean)"] = float(np.mean(values))
        found[f"p, {name}"] = float((1 + sum(one <= observed[name] + 1e-12 for one in values)) / (1 + DRAWS))
    return found


def at_random(runs: Sequence[Facts], generator: np.random.Generator) -> list[float]:
    """For every model the mean sharpness of as many layers as it has stragglers, drawn at random."""
    found = []
    for run in runs:
        layers = list(run["layers"].values())
        found.append(float(np.mean(generator.choice(layers, len(run["chosen"]), replace=False))))
    return found


def of_seed(runs: Sequence[Facts], draws: int = 200) -> dict[str, float]:
    """−tau with OOD accuracy within one seed's models: of each measure, and of random layers (mean over draws)."""
    outcome = [run["OOD"] for run in runs]
    found = {name: -tau([run[name] for run in runs], outcome) for name in MEASURES}
    random = [-tau(at_random(runs, np.random.default_rng(draw)), outcome) for draw in range(draws)]
    return found | {"random layers": float(np.mean(random))}


def _interval(values: Sequence[float], outcome: Sequence[float]) -> list[float]:
    generator, one, other = np.random.default_rng(0), np.array(values), np.array(outcome)
    drawn = []
    for _ in range(DRAWS):
        places = generator.integers(0, len(one), len(one))
        drawn.append(tau(one[places], other[places]))
    return [float(value) for value in np.quantile(drawn, [0.05, 0.95])]


def _pearson(values: Sequence[float], outcome: Sequence[float]) -> float:
    if np.std(values) == 0 or np.std(outcome) == 0:
        return 0.0
    return float(np.corrcoef(values, outcome)[0, 1])
