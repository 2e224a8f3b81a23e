"""LEVI and head tuning with the activation cache and without, per epoch after the first; ends with a JSON line.

With the base frozen its pooled activations are the same in every epoch, so that from the second on they are read from a
file. Time per later epoch: the difference of a run of 1 + E epochs and a run of 1 epoch, divided by E. Goal: 5 times.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import tempfile
import time
from pathlib import Path

import pairtune
from _harness import Timing, finish, ratio

WORDS = (
    "the order arrived late and broken but support was friendly quick refund great terrible box screen cable".split()
)


def prepare(folder: Path, rows: int) -> None:
    """Texts of about 60 words with one of two labels."""
    generator = random.Random(0)
    lines = [json.dumps({"text": " ".join(generator.choices(WORDS, k=60)), "label": "ab"[i % 2]}) for i in range(rows)]
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "validation.jsonl").write_text("\n".join(lines[:16]), encoding="utf-8")


def run(folder: Path, tuner: str, epochs: int, cache_gb: float) -> None:
    """One run of `tune`."""
    training = {"epochs": epochs, "batch_size": 16, "max_length": 96, "cache_gb": cache_gb}
    pairtune.tune({"base": "zoo:minilm", "data": str(folder), "tuner": tuner, "training": training})


def main() -> None:
    """Measure both tuners."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=5, help="epochs after the first")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    logging.getLogger("pairtune").setLevel(logging.ERROR)
    figures, timings = {}, {}
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), arguments.rows)
        for tuner in ("levi", "head"):
            found = {f"{tuner}, {what} the cache": Timing([], []) for what in ("without", "with")}
            for round_ in range(1 + arguments.repeats):  # the first warms up
                for (_, timing), size in zip(found.items(), (0.0, 1.0), strict=True):
                    spent = []
                    for epochs in (1, 1 + arguments.epochs):
                        wall, cpu = time.perf_counter(), time.process_time()
                        run(Path(name), tuner, epochs, size)
                        spent.append((time.perf_counter() - wall, time.process_time() - cpu))
                    if round_:
                        timing.wall.append((spent[1][0] - spent[0][0]) / arguments.epochs)
                        timing.cpu.append((spent[1][1] - spent[0][1]) / arguments.epochs)
            figures[f"{tuner}: times as fast an epoch (median, low, high)"] = [
                round(x, 1) for x in ratio(*found.values())
            ]
            timings |= found
    finish("activation_cache", figures, timings)


if __name__ == "__main__":
    main()
