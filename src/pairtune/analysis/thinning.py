"""The path once more with the change of some layers thinned to its largest entries, against the plain path.

arXiv 2410.16476 reports that sparsity in straggler layers repairs paths that are worth nothing; which sparsity is not
confirmed. Here the largest p % of a layer's change stay, p out of 5, 10, 25 and 50, and p and alpha are picked together
on ID validation. The control is as many other layers, drawn at random and thinned to the same share, each draw at the
alpha that is best for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pairtune.analysis.behaviour import RISING
from pairtune.analysis.layer_paths import thinned
from pairtune.analysis.path import MAIN, Items, Parts, along
from pairtune.analysis.sweep import ALPHAS, VALIDATION, Route, best, on_line
from pairtune.pair.line import Line
from pairtune.pair.paired import ENDS, resampled

KEPT = (0.05, 0.1, 0.25, 0.5)  # shares of a straggler's change that are tried
CONTROLS = 3  # draws of other layers


@dataclass(frozen=True)
class Thinned:
    """A path with some layers thinned: the point picked on validation.

    Attributes:
        layers: which were thinned. keep: share of their change that stays. alpha: the place. validation: metric there.
        effect: its OOD mean minus that of the plain path's picked point, with the 95 % interval (mean, low, high);
            positive is better; None without OOD splits.
        gain: its OOD mean minus that of the plain path's better end; None likewise.
    """

    layers: list[str]
    keep: float
    alpha: float
    validation: float
    effect: tuple[float, float, float] | None
    gain: float | None


@dataclass(frozen=True)
class Thinning:
    """Paths of a route with some layers thinned, against the plain path; `said` as in `of_route`."""

    way: Route
    kind: str
    parts: Parts
    said: Mapping[str, Items]
    groups: dict[str, list[str]]
    line: Line
    step: Callable[[str], None]

    def of(self, layers: list[str]) -> Thinned:
        """The share out of `KEPT`, and the alpha, that are best on validation."""
        tried = {}
        for keep in KEPT:
            self.step(f"{keep:.0%} of the stragglers' change")
            tried[keep] = self._measured(layers, keep, [VALIDATION])[VALIDATION]
        together = {metric: np.concatenate([one[metric] for one in tried.values()]) for metric in tried[KEPT[0]]}
        which = best(together, self.kind)
        return self._judged(layers, KEPT[which // len(ALPHAS)], which % len(ALPHAS))

    def prefers(self, one: Thinned) -> bool:
        """Whether validation is better there than at the plain path's picked point."""
        plain = float(self._plain(VALIDATION, best(self.said[VALIDATION], self.kind)).mean())
        return one.validation > plain if self._rising else one.validation < plain

    def controls(self, lagging: list[str], keep: float) -> list[Thinned]:
        """As many layers that do not lag, drawn three times and thinned alike, each at its own best alpha."""
        others = [name for name in self.groups if name not in lagging]
        generator = np.random.default_rng(0)
        found = []
        for _ in range(CONTROLS if len(others) >= len(lagging) else 0):
            drawn = [others[i] for i in sorted(generator.choice(len(others), len(lagging), replace=False))]
            items = self._measured(drawn, keep, [VALIDATION])[VALIDATION]
            found.append(self._judged(drawn, keep, best(items, self.kind)))
        return found

    @property
    def _rising(self) -> bool:
        return MAIN[self.kind] in RISING

    def _plain(self, split: str, at: int) -> np.ndarray:
        return self.said[split][MAIN[self.kind]][at]

    def _measured(
        self, layers: list[str], keep: float, splits: list[str], alphas: Sequence[float] = ALPHAS
    ) -> dict[str, Items]:
        line = thinned(self.line, [self.groups[name] for name in layers], keep)
        parts = {name: self.parts[name] for name in splits}
        return along(self.way.pair, parts, alphas, lambda at: on_line(self.way.pair, line, at))

    def _judged(self, layers: list[str], keep: float, at: int) -> Thinned:
        """The point of a thinned path on every split, against the plain path."""
        self.step(f"{', '.join(layers)} thinned to {keep:.0%}")
        metric, sign = MAIN[self.kind], 1 if self._rising else -1
        outside = [name for name in self.parts if name.startswith("ood/")]
        there = self._measured(layers, keep, [VALIDATION, *outside], [ALPHAS[at]])
        plain_at = best(self.said[VALIDATION], self.kind)
        effect = gained = None
        if outside:
            gaps = [sign * (there[name][metric][0] - self._plain(name, plain_at)) for name in outside]
            low, high = np.quantile(np.mean([resampled(gap, i) for i, gap in enumerate(gaps)], axis=0), ENDS)
            effect = (float(np.mean([gap.mean() for gap in gaps])), float(low), float(high))
            means = [sign * np.mean([self._plain(name, end).mean() for name in outside]) for end in (0, -1)]
            gained = float(sign * np.mean([there[name][metric].mean() for name in outside]) - max(means))
        return Thinned(layers, keep, ALPHAS[at], float(there[VALIDATION][metric].mean()), effect, gained)
