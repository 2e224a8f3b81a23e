"""What the blocks below the edited place say of every edit, computed once: they never change while it trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor

from pairtune.pair.logprobs import returning

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

SHARE = 0.25  # of the free memory that may be taken
EXACT, ROUNDED = 1e-4, 5e-2  # how far a loss may be from that of the plain pass, in float32 and in half precision
Inputs = Callable[[Sequence[int]], dict[str, Tensor]]


class Below:
    """Hidden states that enter the first block which the delta changes, by edit.

    Args:
        inputs: model inputs of some edits, padded on the left.
        lengths: tokens of every edit's inputs.
    """

    def __init__(self, pair: Pair, inputs: Inputs, lengths: Sequence[int]):
        self.pair, self._inputs, self._lengths = pair, inputs, lengths
        self._blocks = [block for _, block in pair.base.blocks[: pair.top.installed.first_changed()]]
        self._rows: list[Tensor] = []

    @property
    def fits(self) -> bool:
        """Whether there are such blocks, and memory for what they say."""
        base = self.pair.base
        need = sum(self._lengths) * base.hidden_size * base.dtype.itemsize
        device = base.device
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
        return bool(self._blocks) and need < SHARE * free

    @torch.no_grad()
    def compute(self, batch: int = 64) -> None:
        """Run all edits once."""
        caught: list[Any] = []
        handle = self._blocks[-1].register_forward_hook(lambda _module, _args, out: caught.append(out))
        try:
            for start in range(0, len(self._lengths), batch):
                numbers = range(start, min(start + batch, len(self._lengths)))
                self.pair.model(**self._inputs(numbers), use_cache=False)
                hidden = caught.pop()
                hidden = hidden[0] if isinstance(hidden, tuple) else hidden
                # Copies, so that no row keeps its whole batch alive.
                self._rows += [hidden[i, -self._lengths[n] :].clone() for i, n in enumerate(numbers)]
        finally:
            handle.remove()

    @contextlib.contextmanager
    def replay(self, numbers: Sequence[int]) -> Iterator[None]:
        """While inside, the blocks below hand back what they said of these edits, and compute nothing."""
        if not self._rows:
            yield
            return
        rows = [self._rows[i] for i in numbers]
        hidden = rows[0].new_zeros(len(rows), max(len(row) for row in rows), rows[0].shape[-1])
        for i, row in enumerate(rows):
            hidden[i, -len(row) :] = row
        with contextlib.ExitStack() as stack:
            for block in self._blocks:
                stack.enter_context(returning(block, hidden))
            yield

    def prove(self, losses: Callable[[Sequence[int]], Tensor]) -> bool:
        """Compare the shortcut with the plain pass on a few edits; forget everything where they differ."""
        few = range(min(4, len(self._lengths)))
        with torch.no_grad():
            quick, rows = losses(few), self._rows
            self._rows = []
            plain = losses(few)
        near = EXACT if self.pair.base.dtype == torch.float32 else ROUNDED  # rows are padded in other ways
        if torch.allclose(quick, plain, atol=near, rtol=near):
            self._rows = rows
        return bool(self._rows)
