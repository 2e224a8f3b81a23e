"""AUROC as a mean over items, so that a paired bootstrap over items and seeds judges it as it judges an accuracy.

The placement of an OOD item is the share of ID scores below its own, that of an ID item the share of OOD scores above
(ties count half); the mean of either is the AUROC A. DeLong et al. (1988, Biometrics 44) estimate its variance as
var(V_id) / n_id + var(V_ood) / n_ood. With N = n_id + n_ood, item i of group g has the pseudo-value

    A + (N / n_g) (V_i − A),

whose mean over all items is A, and the variance of whose resampled mean is DeLong's (with 1/n variances).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy.stats import rankdata

from pairtune.pair.separation import figures
from pairtune.reproductions.frame import Results

Scores = Mapping[str, np.ndarray]
LENGTH, BEST_LENGTH = "length", "length, either way"
FIGURES = ("AUROC", "AUPR, OOD positive", "AUPR, ID positive", "FPR at 95 % TPR")


def pseudo_values(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """[n_id + n_ood] values, ID items first, from the scores of ID and OOD items (higher = further out)."""
    inside, outside = np.asarray(inside, dtype=np.float64), np.asarray(outside, dtype=np.float64)
    n_id, n_ood = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    placed_in = 1 - (ranks[:n_id] - rankdata(inside)) / n_ood
    placed_out = (ranks[n_id:] - rankdata(outside)) / n_id
    area, total = placed_out.mean(), n_id + n_ood
    return np.concatenate([area + total / n * (v - area) for n, v in ((n_id, placed_in), (n_ood, placed_out))])


def keep(results: Results, seed: int, by_split: Mapping[str, tuple[Scores, Scores]]) -> None:
    """Keep one seed's outcomes of every arm, and all four figures in the notes.

    Where there is length among the arms, "length, either way" is added: by longer or by shorter, whichever separates a
    split better, which no detector without OOD data could know; a baseline that is stronger than a fair one.

    Args:
        by_split: split → (scores of ID items, scores of OOD items), each by arm; the same arms in every split.
    """
    values: dict[str, dict[str, np.ndarray]] = {}
    found = dict(results.notes.get("figures by seed", {}))
    for arm in next(iter(by_split.values()))[0]:
        values[arm] = {}
        for split, (inside, outside) in by_split.items():
            values[arm][split] = pseudo_values(inside[arm], outside[arm])
            rounded = [round(float(one), 4) for one in figures(inside[arm], outside[arm])]
            of_split = dict(found.get(split, {}))
            of_split[arm] = {**of_split.get(arm, {}), str(seed): dict(zip(FIGURES, rounded, strict=True))}
            found[split] = of_split
    if LENGTH in values:
        values[BEST_LENGTH] = {split: one if one.mean() > 0.5 else 1 - one for split, one in values[LENGTH].items()}
    results.note("figures by seed", found)
    for arm, outcomes in values.items():
        results.add(arm, seed, outcomes)


def missing(results: Results, arms: Iterable[str], settings: Mapping[str, Any]) -> list[int]:
    """The seeds with which one of the arms still has to be run."""
    return [seed for seed in range(settings["seeds"]) if any(results.missing(arm, seed) for arm in arms)]


def areas(results: Results, split: str) -> dict[str, float]:
    """Arm → mean AUROC over seeds on one split, for the log."""
    return {arm: float(np.mean([run[split] for run in seeds.values()])) for arm, seeds in results.outcomes.items()}


def short(results: Results, split: str, arms: tuple[str, ...]) -> str:
    """A line for the log."""
    found: dict[str, Any] = areas(results, split)
    return ", ".join(f"{arm} {found[arm]:.3f}" for arm in arms)
