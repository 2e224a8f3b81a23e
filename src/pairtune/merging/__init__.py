"""Deltas and models combined without training: the merge methods, one file each, over one streaming engine.

A method sees one output tensor at a time, or a piece of it, and never a file. The engine (`engine/stream.py`) asks it
for whole checkpoints, larger than the memory too, `engine/in_memory.py` for tensors that are loaded already. What goes
in is opened in `inputs/`, what comes out is written in `outputs/`; `config/` reads merges from files, `search/` looks
for one, `rebase/` moves a delta to another base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pairtune.method import Method

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from pairtune.merging.engine.operands import Operands
    from pairtune.pair.pair import Pair


class Merge(Method):
    """One way to make a tensor out of the same tensor of several models.

    Attributes:
        needs: "base" where it works on what the models add to a common base, "samples" where it looks at data.
        models: the fewest and the most models that it takes, the base not counted.
        weighted: whether the models' weights mean something to it; else giving them is an error.
        signed: whether a weight may be negative.
        unit: what `combine` gets at a time: pieces of the flattened tensor ("element"), pieces made of whole rows
            ("row"), or all of it ("tensor").
        random: whether it draws random numbers; models then have their own by their places in the order.
        linear: whether the result is the base plus a weighted sum of the models' changes, so that low-rank changes can
            stay low-rank.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    models: ClassVar[tuple[int, int]] = (1, 1_000_000)
    weighted: ClassVar[bool] = True
    signed: ClassVar[bool] = True
    unit: ClassVar[Literal["element", "row", "tensor"]] = "element"
    random: ClassVar[bool] = False
    linear: ClassVar[bool] = False

    def collect(self, pair: Pair, batches: Iterable[dict[str, Any]]) -> dict[str, Tensor]:
        """Where it needs samples: what it wants to know of a model, by the tensors' names on disk.

        Asked once a model, before anything is merged; kept in a file, and given back as `Operands.statistic`.

        Args:
            pair: the model alone, in float32, in evaluation mode, its own weights as plain Parameters.
            batches: rows of the model's own task, one a batch, on the model's device.
        """
        raise NotImplementedError

    def beside(self, shape: tuple[int, ...], known: Sequence[Tensor | None]) -> int:
        """Bytes that it takes for a tensor of this shape beside the pieces, at most; `known`: its statistics."""
        return 0

    def measure(self, whole: Operands) -> Any:
        """What must be known of the whole tensor before its pieces can be combined; None where nothing."""
        return None

    def combine(self, piece: Operands, measured: Any) -> Tensor:
        """The output for one piece, flattened, in the type of `piece` (float32 or float64); it is rounded afterwards.

        Deterministic: random choices come from `piece.generator`, which knows the piece by its place.
        """
        raise NotImplementedError

    def keeps(self, weights: tuple[float, ...]) -> bool:
        """Whether models that are all equal (and equal to the base) give that model back; such tensors are copied."""
        return True

    def alone(self, weights: tuple[float, ...]) -> int | None:
        """The model whose tensors are the result as they are stored, where that is so; they are then copied."""
        return None

    def scales(self, weights: tuple[float, ...]) -> tuple[float, ...]:
        """Where `linear`: by what each model's change is multiplied. The sum of them stands on the base."""
        raise NotImplementedError
