"""The streaming engine: every step's tensor is computed in pieces and written to its place, in several threads.

A thread reads, computes and writes one tensor at a time; while one waits for the disk, the others work. Inputs are
mapped into memory, so that the anonymous memory is that of the pieces, and of whole tensors only for methods that must
look at one before they begin.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from pairtune.merging.engine import compute
from pairtune.merging.engine.layout import nbytes
from pairtune.merging.engine.operands import PIECE
from pairtune.merging.engine.plan import Step
from pairtune.merging.engine.writer import Writer

_SPARE = 16 << 20  # bytes that a thread has beside its pieces: its stack, and what the allocator keeps for it


@dataclass(frozen=True)
class Cost:
    """What a merge takes, in bytes: `memory` is an upper bound of the anonymous memory beside the program's own."""

    read: int
    write: int
    memory: int
    threads: int


@dataclass(frozen=True)
class Measured:
    """What it took: seconds, and the largest anonymous memory beside that at the start (None where it is unknown)."""

    seconds: float
    memory: int | None
    continued: int


def cost(steps: Sequence[Step], threads: int | None = None) -> Cost:
    """The cost before the run. Fewer threads are taken where the memory would not do for all cores."""
    read = sum(_stored(step) for step in steps)
    write = sum(nbytes(step) for step in steps)
    need = _SPARE + max((_working(step) for step in steps), default=0)
    cores = threads or min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
    if threads is None:
        cores = max(1, min(cores, psutil.virtual_memory().available // 2 // max(need, 1)))
    return Cost(read, write, need * cores, cores)


def figures(cost: Cost, measured: Measured, tensors: int) -> dict[str, Any]:
    """What a card keeps of the cost, expected and measured."""
    return {
        "tensors": tensors,
        "bytes": {"read": cost.read, "written": cost.write},
        "memory": {"bound": cost.memory, "measured": measured.memory},
        "seconds": round(measured.seconds, 3),
        "continued": measured.continued,
        "check": None,
    }


def run(steps: Sequence[Step], writer: Writer, threads: int) -> Measured:
    """Write every tensor that the writer does not have yet.

    With Ctrl-C the tensors in work are finished, and `KeyboardInterrupt` says how far it came.
    """
    waiting = [step for step in steps if step.key not in writer.digests]
    continued = len(steps) - len(waiting)
    own = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are worked on side by side; each by one thread
    started = time.perf_counter()
    try:
        with _Watch() as watch, _Bar(waiting) as bar, ThreadPoolExecutor(threads) as pool:
            jobs = [pool.submit(_one, step, writer, bar) for step in waiting]
            try:
                done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
                for job in done:
                    job.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{len(writer.digests)} of {len(steps)} tensors are written; the same command goes on from there"
        ) from None
    finally:
        torch.set_num_threads(own)
    return Measured(time.perf_counter() - started, watch.peak, continued)


def _one(step: Step, writer: Writer, bar: _Bar) -> None:
    with torch.inference_mode():
        writer.put(step.key, compute.pieces(step))
    bar.advance(nbytes(step))


def _stored(step: Step) -> int:
    """Bytes that are read of the inputs' files."""
    total = 0
    for place in (*step.inputs, *([step.base] if step.base else []), *([step.copied] if step.copied else [])):
        part = place.source.part(place.name)
        if part is not None:
            total += part.nbytes
        if part is None or part.kind not in ("value", "module"):
            total += math.prod(place.source.shape(place.name)) * place.source.dtype(place.name).itemsize
    return total


def _working(step: Step) -> int:
    """Bytes of anonymous memory that one thread needs for a step."""
    if step.rule is None:
        return 4 * PIECE * step.dtype.itemsize
    method, elements = step.rule.method, math.prod(step.shape)
    at_once = elements if method.unit == "tensor" else min(max(PIECE, step.shape[-1] if step.shape else 1), elements)
    pieces = step.arithmetic.itemsize * (len(step.inputs) + 8) * at_once
    return pieces + method.beside(step.shape, [place.source.statistic(place.name) for place in step.inputs])


class _Bar:
    """Progress on stderr, where that is a terminal."""

    def __init__(self, steps: Sequence[Step]):
        import sys

        from tqdm import tqdm

        total = sum(nbytes(step) for step in steps)
        self._bar = tqdm(
            total=total, desc="merge", unit="B", unit_scale=True, leave=False, disable=not sys.stderr.isatty()
        )
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self._bar.update(count)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class _Watch:
    """The largest anonymous memory of this process while inside, beside that at the start (Linux)."""

    def __init__(self):
        self._start = _anonymous()
        self.peak: int | None = None if self._start is None else 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while self._start is not None:
            self.peak = max(self.peak or 0, (_anonymous() or 0) - self._start)
            if self._end.wait(0.02):
                return


def _anonymous() -> int | None:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next((line for line in text.splitlines() if line.startswith("RssAnon:")), None)
    return None if line is None else int(line.split()[1]) * 1024
