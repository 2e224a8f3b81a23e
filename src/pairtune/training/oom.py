"""When memory runs out: the same rows in smaller pieces, never other rows and never a row twice.

A loss is a sum over rows divided by the units of the whole step, so that a batch and its pieces give the same
gradient. On an out-of-memory error the step's gradient is dropped, every batch is cut into twice as many pieces, and
the step's batches are computed again from the first; so half the batch size with twice the accumulation, and the
effective batch unchanged.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pairtune.errors import PairtuneError

log = logging.getLogger("pairtune")
MOST_CUTS = 6  # 64 pieces of a batch


class OutOfMemory(PairtuneError):
    """The smallest piece does not fit either; the message says what to try."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator: can't allocate" in text or "out of memory" in text
    )


def rows_of(batch: dict[str, Any]) -> int:
    """Number of sequences in a batch."""
    return next(len(v) for key, v in batch.items() if isinstance(v, Tensor) and v.ndim and key != "index")


def cut(batch: dict[str, Any], pieces: int) -> list[dict[str, Any]]:
    """A batch as at most `pieces` batches of consecutive rows. What is not a tensor with a row each stays with all."""
    count = rows_of(batch)
    size = -(-count // pieces)
    if size >= count:
        return [batch]
    return [
        {
            key: value[start : start + size]
            if isinstance(value, Tensor) and value.ndim and len(value) == count
            else value
            for key, value in batch.items()
        }
        for start in range(0, count, size)
    ]


class Pieces:
    """Into how many pieces each batch is cut so that it fits, and when that was changed.

    Attributes:
        factor: a power of two; 1 as long as memory suffices.
        events: what happened, for the checkpoint and the card.
    """

    def __init__(self) -> None:
        self.factor = 1
        self.events: list[dict[str, int]] = []

    def run(self, step: int, batches: list[dict[str, Any]], one: Callable, reset: Callable[[], None]) -> Any:
        """Compute `one(pieces)` of the last batch; after an out-of-memory error, of all of a step's batches again.

        Args:
            batches: the step's batches so far, the last one new.
            one: computes forward and backward of one batch, given as its pieces.
            reset: drops the gradients and sums of this step.

        Returns: what `one` gave for the last batch. Raises `OutOfMemory` when single rows do not fit.
        """
        todo = batches[-1:]
        while True:
            message = ""
            try:
                return [one(cut(batch, self.factor)) for batch in todo][-1]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                message = str(error).split("\n")[0]
            # Outside of the except block: its traceback would keep the failed pass's tensors alive.
            self._halve(step, batches, message)
            reset()
            release()
            todo = batches

    def _halve(self, step: int, batches: list[dict[str, Any]], message: str) -> None:
        largest = max(rows_of(batch) for batch in batches)
        before = -(-largest // self.factor)
        if before <= 1 or self.factor >= 2**MOST_CUTS:
            length = max(_length(batches), default=0)
            rows = f"{before} row{'s' if before > 1 else ''} of {length} tokens"
            raise OutOfMemory(
                f"step {step}: memory does not suffice for {rows} at a time ({message}); try a smaller "
                "training.max_length, training.precision bf16, quantize 4bit or a smaller base"
            )
        self.factor *= 2
        after = -(-largest // self.factor)
        self.events.append({"step": step, "pieces": self.factor, "rows_at_once": after})
        log.warning("step %d: out of memory; %d rows at once instead of %d, the same rows a step", step, after, before)

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"factor": self.factor, "events": self.events}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.factor, self.events = int(state["factor"]), list(state["events"])


def release() -> None:
    """Give unreferenced memory back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _length(batches: Iterable[dict[str, Any]]) -> list[int]:
    return [batch["input_ids"].shape[1] for batch in batches if "input_ids" in batch]
