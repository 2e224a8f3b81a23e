"""One tuned model: its path, its barrier, its sharpness as a whole and by layer, its stragglers, and their thinning.

Everything that is chosen (alpha, the stragglers, the share that stays of their change) is chosen on ID rows: alpha and
the share on validation, the stragglers and all sharpness on training images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pairtune.analysis.layer_paths import above_chord, agreement, layer_groups, layer_paths, stragglers, thinned
from pairtune.analysis.sharpness import average_case, worst_case
from pairtune.analysis.sweep import ALPHAS, VALIDATION, best
from pairtune.pair.line import Line
from pairtune.reproductions.sharpness import images, vit
from pairtune.reproductions.sharpness.images import OOD, Set

KIND = "classification"
KEPT = (0.05, 0.1, 0.25, 0.5, 1.0)
CONTROLS = 3
PRICE = 0.01  # validation accuracy that a smaller alpha may cost
Said = dict[str, dict[str, np.ndarray]]  # split → metric → [A, N]
Outcomes = dict[str, dict[str, list[float]]]  # arm → split → right or wrong, a row


@dataclass(frozen=True)
class Bench:
    """What all runs have in common: the settings, one model to hold weights, the base's, and the test images."""

    settings: Mapping[str, Any]
    model: nn.Module
    base: dict[str, Tensor]
    tests: dict[str, Set]

    def run(self, lr: float, augment: bool, seed: int, mitigate: bool) -> dict[str, Any]:
        """Tune one model and measure it: {"facts": numbers, "outcomes": by arm and split}."""
        end = vit.tuned(self.model, self.base, lr, augment, seed, self.settings)
        names = [name for name, _ in self.model.named_parameters()]
        line = Line(self.model, {name: self.base[name] for name in names}, {name: end[name] for name in names})
        said = self.along(line)
        rows = images.tuning(self.settings, seed).take(slice(0, self.settings["sharpness_images"]))
        layers = self._layers(line, rows)
        picked, oracle = best(said[VALIDATION], KIND), int(np.argmax(ood_means(said)))
        losses = said[VALIDATION]["nll"].mean(1)
        facts = {
            "lr": lr,
            "augment": augment,
            "seed": seed,
            "alpha": ALPHAS[picked],
            "oracle alpha": ALPHAS[oracle],
            "OOD by alpha": ood_means(said).tolist(),
            "ID by alpha": said["test"]["accuracy"].mean(1).tolist(),
            "OOD": float(ood_means(said)[picked]),
            "gain": gain_of(said, picked),
            "oracle gain": gain_of(said, oracle),
            "barrier": float(above_chord(losses.tolist(), ALPHAS).max()),
            **layers,
        }
        places = {"start": 0, "end": -1, "picked": picked, "oracle": oracle, "smaller alpha": smaller(said, picked)}
        outcomes = {arm: rights(said, at) for arm, at in places.items()}
        if mitigate:
            outcomes |= self._mitigated(line, layers, facts)
        return {"facts": facts, "outcomes": outcomes}

    def along(self, line: Line, splits: tuple[str, ...] | None = None) -> Said:
        """The values of every split at every alpha."""
        found: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in splits or self.tests}
        for alpha in ALPHAS:
            with line.at(alpha):
                for name, values in found.items():
                    values.append(vit.answers(self.model, self.tests[name]))
        return {name: {m: np.stack([one[m] for one in values]) for m in values[0]} for name, values in found.items()}

    def _layers(self, line: Line, rows: Set) -> dict[str, Any]:
        """Sharpness at the tuned weights, and which layers lag."""
        batches, steps, rho = vit.batches(rows), self.settings["steps"], self.settings["rho_worst"]
        groups = layer_groups(self.model, line.start)

        def mean_loss() -> float:
            return float(vit.answers(self.model, rows)["nll"].mean())

        paths = layer_paths(line, groups, mean_loss)
        lags = {name: one.lag for name, one in paths.items()}
        chosen = stragglers(lags) or stragglers(lags, top=1)
        plain, normal = vit.loss_of(self.model), vit.loss_of(self.model, normal=True)
        with line.at(1.0):
            names = list(line.start)
            own = {name: worst_case(self.model, plain, batches, rho, group, steps) for name, group in groups.items()}
            return {
                "global": worst_case(self.model, plain, batches, rho, names, steps),
                "global, normalised": worst_case(self.model, normal, batches, rho, names, steps),
                "global, average": average_case(self.model, plain, batches, self.settings["rho_average"], names, 10),
                "layers": own,
                "mean of layers": float(np.mean(list(own.values()))),
                "stragglers": float(np.mean([own[name] for name in chosen])),
                "stragglers, normalised": float(
                    np.mean([worst_case(self.model, normal, batches, rho, groups[name], steps) for name in chosen])
                ),
                "lags": lags,
                "chosen": chosen,
                "overlap with mirror and places": agreement(paths, chosen),
            }

    def _mitigated(self, line: Line, layers: Mapping[str, Any], facts: dict[str, Any]) -> Outcomes:
        """Stragglers thinned, and as many other layers; adds what was chosen to the facts."""
        groups, chosen = layer_groups(self.model, line.start), layers["chosen"]
        others = [name for name in groups if name not in chosen]
        thin = {keep: thinned(line, [groups[name] for name in chosen], keep) for keep in KEPT}
        tried = [self.along(one, (VALIDATION,))[VALIDATION] for one in thin.values()]
        together = {metric: np.concatenate([one[metric] for one in tried]) for metric in tried[0]}
        which = best(together, KIND)
        keep, alpha = KEPT[which // len(ALPHAS)], ALPHAS[which % len(ALPHAS)]
        facts |= {"kept": keep, "alpha, thinned": alpha}
        generator, controls = np.random.default_rng(facts["seed"]), []
        for _ in range(CONTROLS):
            drawn = generator.choice(len(others), len(chosen), replace=False)
            control = thinned(line, [groups[others[i]] for i in drawn], keep)
            at = best(self.along(control, (VALIDATION,))[VALIDATION], KIND)
            controls.append(self._rights_at(control, ALPHAS[at]))
        mean = {split: np.mean([one[split] for one in controls], axis=0).tolist() for split in controls[0]}
        return {"thinned stragglers": self._rights_at(thin[keep], alpha), "thinned others": mean}

    def _rights_at(self, line: Line, alpha: float) -> dict[str, list[float]]:
        with line.at(alpha):
            return {name: vit.answers(self.model, self.tests[name])["accuracy"].tolist() for name in ("test", *OOD)}


def ood_means(said: Said) -> np.ndarray:
    """[A] accuracy, the mean over the OOD splits."""
    return np.mean([said[name]["accuracy"].mean(1) for name in OOD], axis=0)


def gain_of(said: Said, at: int) -> float:
    """OOD accuracy at a point minus that at the better end."""
    means = ood_means(said)
    return float(means[at] - max(means[0], means[-1]))


def smaller(said: Said, picked: int) -> int:
    """The smallest alpha whose validation accuracy is at most a point below the picked one's."""
    accuracy = said[VALIDATION]["accuracy"].mean(1)
    return int(np.flatnonzero(accuracy >= accuracy[picked] - PRICE - 1e-12)[0])


def rights(said: Said, at: int) -> dict[str, list[float]]:
    """Right or wrong, row by row, on ID test and OOD splits."""
    return {name: said[name]["accuracy"][at].tolist() for name in ("test", *OOD)}


def opened(folder: Any, settings: Mapping[str, Any]) -> Bench:
    """The bench in a working folder; pretrains the base where it is not there yet."""
    base = vit.pretrained(folder, settings)
    torch.manual_seed(0)
    model = vit.make(images.DIGITS, settings).requires_grad_(True)
    return Bench(settings, model, base, images.tests(settings))
