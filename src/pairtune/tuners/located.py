"""One place of the base trains, named by block and module: a single matrix, an MLP, a whole block.

Yang, Sun et al., "Fine-tuning Done Right in Model Editing", arXiv 2509.22072 (LocFT-BF): where a model is tuned decides
what an edit costs elsewhere; one projection of one block holds thousands of edits.

    theta_loc = all parameters under blocks[LAYER].MODULE        at = "LAYER:MODULE" or "LAYER"; blocks count from 0

The module is looked up by its exact path (2 is never 20). Without `at` it is the projection that leads out of the
feed-forward part of block int(0.7 · blocks): the place of the paper's Llama-3-8B-Instruct (22 of 32, `mlp.down_proj`).
Other models have other best places (the paper's Qwen2.5: block 6 of 28), which a search finds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pairtune import method
from pairtune.errors import InputError
from pairtune.registry import suggest
from pairtune.tuners import Tuner

if TYPE_CHECKING:
    from torch import nn

    from pairtune.pair.base import Base
    from pairtune.pair.installed import Installed

DEPTH = 0.7  # of the blocks lie below the place that is taken without `at`


class Located(Tuner):
    """The parameters under one module of a decoder."""

    provides = frozenset({"tokens", "labels", "scale", "merge", "identity_at_start"})
    families = frozenset({"causal"})
    default_lr = 5e-4
    trainable_share = 0.033

    class Settings(method.Settings):
        at: str | None = Field(
            None,
            description="block and module, as 22:mlp.down_proj; a number alone: the whole block; by default a rule",
        )

    settings: Settings

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from pairtune.tuners.dense import InstalledDense

        names = parameters_at(base, self.settings.at or usual_place(base))
        return InstalledDense(base, names, self.provides, pair_model)


def parameters_at(base: Base, at: str) -> list[str]:
    """Names in memory of the parameters at a place, in the order of definition; at least one.

    Raises `InputError` for a place that is no block and module of this base, naming the nearest.
    """
    number, colon, module = at.strip().partition(":")
    if not number.isdigit() or (colon and not module):
        raise InputError(f"at: expected block and module, as 6:mlp.down_proj, or a block's number, found {at!r}")
    if int(number) >= len(base.blocks):
        last = len(base.blocks) - 1
        raise InputError(f"at {at}: {base.source} has the blocks 0 to {last}, not {number}")
    name, block = base.blocks[int(number)]
    inside = [path for path, _ in block.named_modules() if path]
    if module and module not in inside:
        near = suggest(module, inside) or f" (it has {', '.join(dict.fromkeys(matrices(block)))})"
        raise InputError(f"at {at}: block {number} of {base.source} has no module {module!r}{near}")
    path = f"{name}.{module}." if module else f"{name}."
    found = [own for own in base.parameters if own.startswith(path)]
    if not found:
        raise InputError(f"at {at}: {module} of block {number} has no parameters of its own")
    return found


def linear_at(base: Base, at: str) -> list[str]:
    """Paths in the model of the linear layers at a place. Raises `InputError` as `parameters_at`, and for none."""
    inside = {name.rpartition(".")[0] for name in parameters_at(base, at)}
    name, block = base.blocks[int(at.partition(":")[0])]
    found = [f"{name}.{path}" for path in matrices(block) if f"{name}.{path}" in inside]
    if not found:
        raise InputError(f"at {at}: there is no linear layer")
    return found


def usual_place(base: Base) -> str:
    """The place that is taken where none is named. Raises `InputError` for a base whose blocks have no feed-forward
    projection that is a layer of its own."""
    number = int(DEPTH * len(base.blocks))
    width = base.hidden_size
    shapes = matrices(base.blocks[number][1]) if base.blocks else {}
    # What leads back to the hidden width from another one is the feed-forward part's way out; attention's keeps it,
    # unless its heads together have another width: so the last one counts, as it is defined after attention.
    back = [path for path, (into, out) in shapes.items() if out == width and into != width]
    if not back:
        raise InputError(f"{base.source}: no feed-forward projection found; name the place, as 6:mlp.down_proj")
    return f"{number}:{back[-1]}"


def matrices(block: nn.Module) -> dict[str, tuple[int, int]]:
    """Path in a block → (inputs, outputs) of its linear layers, in the order of definition."""
    found = {}
    for path, module in block.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or getattr(weight, "ndim", 0) != 2 or "embedding" in type(module).__name__.lower():
            continue
        rows, columns = weight.shape
        # GPT-2's layers keep their matrix the other way round.
        found[path] = (rows, columns) if type(module).__name__ == "Conv1D" else (columns, rows)
    return found
