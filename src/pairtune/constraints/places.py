"""Where in the base a trainable parameter sits, from its name, whatever wrapper has put words around that name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair


class Places:
    """Depth of trainable parameters in a pair's base.

    A wrapper's names contain the base's (`base_model.model.encoder.layer.0.attention...lora_A.default.weight`), so that
    a parameter belongs to the block, or to the module before the blocks, whose name stands in its own.
    """

    def __init__(self, pair: Pair):
        self.blocks = [name for name, _ in pair.base.blocks]
        names = [name for name, _ in pair.base.model.named_parameters()]
        first = next((i for i, name in enumerate(names) if self._block(name) is not None), len(names))
        # Owners of the parameters that are defined before the first block: embeddings and their norms.
        self._before = sorted({name.rpartition(".")[0] for name in names[:first]})

    def depth(self, name: str) -> int:
        """0 for what feeds the blocks (embeddings), i + 1 for block i, number of blocks + 1 for what follows them."""
        block = self._block(name)
        if block is not None:
            return block + 1
        return 0 if any(_stands_in(owner, name) for owner in self._before) else len(self.blocks) + 1

    def _block(self, name: str) -> int | None:
        return next((i for i, block in enumerate(self.blocks) if _stands_in(block, name)), None)


def _stands_in(path: str, name: str) -> bool:
    """Whether a module's path stands in a name as whole words."""
    return f".{path}." in f".{name}."
