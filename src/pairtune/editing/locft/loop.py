"""The loop of the editors: breadth-first epochs over all edits, or depth-first one edit after the other.

It is a loop of its own beside `training/loop.py`: transformers' Trainer takes one step for every batch that a sampler
gives, and here the loss of a batch decides whether there is a step at all (a learnt batch has none), which batch is
next (the same edit again, until it is learnt) and when the optimiser begins anew.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pairtune.editing.locft.ways import LEARNT
from pairtune.errors import NonFiniteError

if TYPE_CHECKING:
    from pairtune.editing.locft.batches import EditBatches
    from pairtune.editing.locft.optimizer import Master


@dataclass
class State:
    """How far a run has come; what it does next follows from this alone.

    Attributes:
        round: breadth-first: the epoch; depth-first: the step on the present edit. Both from 0.
        at: breadth-first: the batch of the epoch; depth-first: the edit.
        total: sum of the losses of this epoch's batches so far.
        steps: optimizer steps taken. skipped: batches that were learnt already.
        updates: gradients of single edits that were taken, the measure of work that the orders share.
        curve: breadth-first: mean loss of every epoch that is over.
        seconds: time spent in the loop.
        over: whether there is nothing left to do; `ended` says why.
    """

    round: int = 0
    at: int = 0
    total: float = 0.0
    steps: int = 0
    skipped: int = 0
    updates: int = 0
    curve: list[float] = field(default_factory=list)
    seconds: float = 0.0
    over: bool = False
    ended: str = ""


class Loop:
    """One run over some edits.

    Args:
        count: how many edits there are.
        epochs: most passes over all edits; depth-first, most steps on one.
        most: most updates (`State.updates`); None: no limit.
        where: the place of an edit, for messages.
    """

    def __init__(
        self,
        batches: EditBatches,
        master: Master,
        count: int,
        *,
        depth_first: bool,
        batch_size: int,
        epochs: int,
        most: int | None,
        seed: int,
        where: Callable[[int], str],
    ):
        self.batches, self.master, self.count = batches, master, count
        self.depth_first, self.batch_size, self.epochs = depth_first, batch_size, epochs
        self.most, self.seed, self._where = most, seed, where
        self.state = State()
        self._order: tuple[int, Sequence[int]] = (-1, [])

    @property
    def rounds(self) -> int:
        """Batches of an epoch; depth-first: edits."""
        return math.ceil(self.count / self.batch_size)

    def step(self) -> None:
        """One batch: its loss, a step where it is not learnt, and what comes next."""
        state, numbers = self.state, self._numbers()
        if self.most is not None and state.updates + len(numbers) > self.most:
            state.over, state.ended = True, f"after {state.updates:,} updates, as asked"
            return
        began = time.monotonic()
        loss = self.batches.losses(numbers).mean()
        value = loss.item()
        if not math.isfinite(value):
            named = ", ".join(self._where(i) for i in numbers[:5])
            raise NonFiniteError(
                f"step {state.steps + 1}: the loss of the edits {named}{' ...' * (len(numbers) > 5)} became {value}; "
                "try a lower --lr"
            )
        if value >= LEARNT:
            loss.backward()
            self.master.step()
            state.steps, state.updates = state.steps + 1, state.updates + len(numbers)
        else:
            state.skipped += 1
        (self._go_deeper if self.depth_first else self._go_on)(value)
        state.seconds += time.monotonic() - began

    def _numbers(self) -> list[int]:
        """The edits of the next batch."""
        if self.depth_first:
            return [self.state.at]
        if self._order[0] != self.state.round:  # a new order for each epoch, from the seed alone
            generator = np.random.default_rng([self.seed, self.state.round])
            self._order = self.state.round, generator.permutation(self.count).tolist()
        start = self.state.at * self.batch_size
        return list(self._order[1][start : start + self.batch_size])

    def _go_on(self, value: float) -> None:
        """After a batch of an epoch."""
        state = self.state
        state.at, state.total = state.at + 1, state.total + value
        if state.at < self.rounds:
            return
        state.curve.append(state.total / self.rounds)
        state.round, state.at, state.total = state.round + 1, 0, 0.0
        if state.curve[-1] < LEARNT:
            state.over, state.ended = True, f"learnt: mean loss {state.curve[-1]:.4f} in epoch {state.round}"
        elif state.round == self.epochs:
            state.over, state.ended = True, f"after {self.epochs} epochs, mean loss {state.curve[-1]:.4f} in the last"

    def _go_deeper(self, value: float) -> None:
        """After a step on one edit."""
        state = self.state
        state.round += 1
        if value >= LEARNT and state.round < self.epochs:
            return
        state.at, state.round = state.at + 1, 0
        self.master.renew()
        if state.at == self.count:
            state.over, state.ended = True, "after the last edit"
