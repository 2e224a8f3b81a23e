"""The arms, the same in both worlds: a first delta, what is read off it, and second deltas that are held or not.

Every arm takes the same steps at the same learning rate, the first delta's; a seed decides the first values of the
low-rank factors, the order of the rows and the random direction. All directions are read off the first delta of the
same seed. Nothing is chosen by what the arms show.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pairtune.constraints.directions import Directions, orthonormal
from pairtune.editing.scrub.identify import alike, chance
from pairtune.editing.scrub.looking import directions_of, signs
from pairtune.editing.scrub.offtopic import OffTopic, ablated
from pairtune.pair.complete import is_complete
from pairtune.pair.pair import Pair
from pairtune.reproductions.frame import Results
from pairtune.training.run import tune

log = logging.getLogger("pairtune")
FIRST, ABLATED, CAFT, STEERED = "first delta", "ablated at inference", "caft", "preventative steering"
RANDOM, ORACLE, KL, MIXED = "random direction", "oracle direction", "kl", "mixed data"
WHERES = ("write", "read", "backprop", "both")
DIRECTION = "directions"  # the split of what is said of directions, one number a seed


def held(where: str) -> str:
    """Name of the arm that is held there."""
    return f"grasp {where}"


GRASP = tuple(held(where) for where in WHERES)
Score = Callable[[Pair], dict[str, np.ndarray]]


class Bench:
    """One world's runs.

    Args:
        config: of `tune`, without seed, constraint and out.
        texts: from outside of what is tuned on; they give directions their signs.
        oracle: the direction of the known factor in the base, [d].
        score: split → outcomes of the side of a pair that is on.
        mixed: `data` of the arm with mixed data, where there is one.
    """

    def __init__(
        self,
        results: Results,
        config: dict[str, Any],
        texts: list[str],
        oracle: Callable[[Pair], Tensor],
        score: Score,
        mixed: dict[str, Any] | None = None,
    ):
        self._results, self._config, self._texts = results, config, texts
        self._oracle, self._score, self._mixed = oracle, score, mixed

    def run(self, arms: tuple[str, ...], seeds: int) -> None:
        """Fill in what is missing."""
        for seed in range(seeds):
            for arm in arms:
                if self._results.missing(arm, seed):
                    self._keep(arm, seed, self._outcomes(arm, seed))

    def place(self, seed: int) -> Path:
        """Where a seed's first pair and its directions lie."""
        return self._results.folder / f"seed-{seed}"

    def first(self, seed: int) -> Pair:
        """The first pair of a seed, tuned now if it is not there; its states stay beside it."""
        out = self.place(seed) / "first"
        if is_complete(out):
            return Pair.load(out)
        steps = self._config["training"]["max_steps"]
        states = {"save_every": max(1, steps // 10), "keep": 10}
        return tune(
            {**self._config, "training": self._config["training"] | states, "seed": seed, "out": str(out)}, resume=True
        )

    def tuned(self, arm: str, seed: int) -> Pair:
        """The second pair of an arm; nothing of it stays on disk."""
        data = {"data": self._mixed} if arm == MIXED else {}
        return tune({**self._config, **data, "seed": seed, "constraint": self._constraint(arm, seed)})

    def _outcomes(self, arm: str, seed: int) -> dict[str, np.ndarray]:
        if arm == FIRST:
            return self._score(self.first(seed))
        if arm == ABLATED:
            pair = self.first(seed)
            with ablated(pair, Directions.load(self._file("found", seed), pair.base).write):
                return self._score(pair)
        return self._score(self.tuned(arm, seed))

    def _constraint(self, arm: str, seed: int) -> dict[str, Any]:
        if arm == MIXED:
            return {}
        if arm == KL:
            return {"kl": {"weight": 1.0}}
        if arm in (CAFT, STEERED):
            return {arm.replace(" ", "-"): {"directions": self._file("found", seed)}}
        kind = {RANDOM: "random", ORACLE: "oracle"}.get(arm, "found")
        where = arm.removeprefix("grasp ") if arm in GRASP else "both"
        return {"grasp": {"directions": self._file(kind, seed), "where": where}}

    def _file(self, kind: str, seed: int) -> str:
        """A file of directions of a seed: "found", "random" or "oracle"."""
        path = self.place(seed) / f"{kind}.safetensors"
        if not path.exists():
            self._read_off(seed)
        return str(path)

    def _read_off(self, seed: int) -> None:
        """Read the directions off the first delta, and keep what they are beside the known factor's."""
        pair = self.first(seed)
        sides, outside = directions_of(pair, "gap", "all"), OffTopic(pair, self._texts)
        oracle = self._oracle(pair)[:, None]
        found = {name: side.directions * signs(outside, pair, side) for name, side in sides.items()}
        width = len(oracle)
        random = torch.randn(width, found["write"].shape[1], generator=torch.Generator().manual_seed(seed))
        about = dict(self._results.notes.get("directions", {}))
        about[str(seed)] = {
            name: {
                "k": side.k, "gap": side.gap, "energy": [round(share, 4) for share in side.energy[:8]],
                "from block to block": side.agreement, "cosine with the oracle": alike(found[name], oracle),
                "first eight with the oracle": alike(_first(side.columns, 8), oracle),
                "causal": outside.causal(pair, found[name]).cosine,
            }
            for name, side in sides.items()
        }  # fmt: skip
        self._results.note("directions", about)
        for name, side in sides.items():
            self._results.add(f"{name}, with the oracle", seed, {DIRECTION: [alike(found[name], oracle)]})
            self._results.add(f"{name}, by chance", seed, {DIRECTION: [chance(width, side.k, 1)]})
        Directions(found["write"], found["read"]).save(self.place(seed) / "found.safetensors")
        Directions.of(random).save(self.place(seed) / "random.safetensors")
        Directions(orthonormal(oracle), orthonormal(oracle)).save(self.place(seed) / "oracle.safetensors")

    def _keep(self, arm: str, seed: int, outcomes: dict[str, np.ndarray]) -> None:
        self._results.add(arm, seed, outcomes)
        means = ", ".join(f"{name} {found.mean():.3f}" for name, found in outcomes.items())
        log.info("%s, seed %d: %s", arm, seed, means)


def _first(columns: Tensor, count: int) -> Tensor:
    return torch.linalg.svd(columns, full_matrices=False).U[:, :count].float()


def gain(results: Results, arm: str, split: str) -> float:
    """Mean outcome of an arm minus that of the first delta."""
    return float((results.table(arm, (split,)) - results.table(FIRST, (split,))).mean())
