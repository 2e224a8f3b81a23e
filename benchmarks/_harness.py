"""What the benchmarks share: interleaved repeats, CPU beside wall time, the machine's bound, one JSON line."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass
class Timing:
    """Seconds of every repeat of one contender."""

    wall: list[float]
    cpu: list[float]

    @property
    def median(self) -> float:
        """Median CPU seconds: on a shared machine they are steadier than the clock."""
        return statistics.median(self.cpu)


def interleave(contenders: Mapping[str, Callable[[], object]], repeats: int = 5, warmup: int = 1) -> dict[str, Timing]:
    """Run all contenders in turn, `repeats` times after `warmup` rounds, so that a busy machine disturbs all alike."""
    timings = {name: Timing([], []) for name in contenders}
    for round_ in range(warmup + repeats):
        for name, run in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if round_ >= warmup:
                timings[name].wall.append(time.perf_counter() - wall)
                timings[name].cpu.append(time.process_time() - cpu)
    return timings


def ratio(slow: Timing, fast: Timing) -> tuple[float, float, float]:
    """How many times faster, repeat by repeat: (median, lowest, highest) of CPU time."""
    ratios = [a / b for a, b in zip(slow.cpu, fast.cpu, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def matrix_flops(seconds: float = 0.5) -> float:
    """This machine's float32 matrix product in FLOP/s with the present number of threads: the bound of compute."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best, start = 0.0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * 1024**3 / (time.perf_counter() - begin))
    return best


def finish(name: str, figures: dict, timings: dict[str, Timing]) -> None:
    """Print the medians with their spread, then one JSON line for machines."""
    for contender, timing in timings.items():
        low, high = min(timing.cpu), max(timing.cpu)
        print(f"  {contender:<42} {timing.median:8.3f} s CPU (median; {low:.3f}-{high:.3f})")
    for figure, value in figures.items():
        print(f"  {figure:<42} {value}")
    record = {
        "benchmark": name,
        "figures": figures,
        "seconds": {contender: {"cpu": t.cpu, "wall": t.wall} for contender, t in timings.items()},
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "transformers", "peft")},
    }
    print(json.dumps(record))
