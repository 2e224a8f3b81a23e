"""Run base and variant over one batch, computing once what is the same on both sides.

Below the first block that the delta reaches, the hidden states of base and variant are equal. The base's pass keeps the
output of the last such block; in the variant's pass all blocks up to it hand that output back instead of computing it.
The shortcut is checked against the plain pass before it is trusted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from pairtune.pair.logprobs import returning


class SharedBlocks:
    """The blocks that both sides of a pair have in common.

    Args:
        blocks: all transformer blocks in the order in which they run.
        first_changed: index of the first block whose output may differ.
    """

    def __init__(self, blocks: list[nn.Module], first_changed: int):
        self._shared = blocks[:first_changed]
        self._output: Any = None

    def __bool__(self) -> bool:
        return bool(self._shared)

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        """While inside, a pass keeps the output of the last shared block."""
        if not self._shared:
            yield
            return
        handle = self._shared[-1].register_forward_hook(self._keep)
        try:
            yield
        finally:
            handle.remove()

    def _keep(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._output = output

    @contextlib.contextmanager
    def replay(self) -> Iterator[None]:
        """While inside, the shared blocks hand back what `capture` kept."""
        with contextlib.ExitStack() as stack:
            if self._output is not None:
                for block in self._shared:
                    stack.enter_context(returning(block, self._output))
            yield
        self._output = None


@contextlib.contextmanager
def collect_hidden(blocks: list[nn.Module], wanted: list[int]) -> Iterator[dict[int, Tensor]]:
    """While inside, a pass leaves the hidden states [B, T, d] of chosen layers in the mapping.

    Layer 0 is what enters the first block, layer l what leaves block l (1-based), before any final norm.
    """
    found: dict[int, Tensor] = {}
    handles = []
    for layer in wanted:
        if layer == 0:
            handles.append(blocks[0].register_forward_pre_hook(_keep_input(found), with_kwargs=True))
        else:
            handles.append(blocks[layer - 1].register_forward_hook(_keep_output(found, layer)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keep_input(found: dict[int, Tensor]) -> Callable:
    def keep(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        found[0] = args[0] if args else kwargs["hidden_states"]

    return keep


def _keep_output(found: dict[int, Tensor], layer: int) -> Callable:
    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        found[layer] = output[0] if isinstance(output, tuple) else output

    return keep
