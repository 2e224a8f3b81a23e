"""The ways in which facts are edited into a model: LocFT-BF and the baselines that its paper argues with.

Yang, Sun et al., "Fine-tuning Done Right in Model Editing", arXiv 2509.22072. Editors ran fine-tuning depth-first, one
edit after another until each is learnt, and so it forgets the earlier ones; run breadth-first, in epochs of shuffled
mini-batches over all edits, on one well-chosen matrix, the same fine-tuning holds thousands of edits.

    l_i = mean over the target's tokens (end token included) of −log p(token)      L = mean over the batch of l_i
    L ≥ 0.01: one step of Adam (constant rate, no decay, no clipping) on theta_loc; below, the batch counts as learnt

breadth-first: epochs over all edits in a new order each, until an epoch's mean L is below 0.01.
depth-first: each edit in the file's order up to `epochs` steps, until its loss is below 0.01; Adam begins anew at each.

Departures: dropout is off, so that a run can be repeated; FT-L's bound on how far a number may move during one edit
(Meng et al., arXiv 2202.05262) and LoRA's rank are values from memory. ROME, MEMIT and other locate-then-edit methods
are not here: the note at hand does not define them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pairtune.errors import InputError
from pairtune.registry import suggest


@dataclass(frozen=True)
class Way:
    """One way of editing.

    Attributes:
        about: one line for people.
        tuner: where the delta lives, a method of the room `tuners`; `located` and `lora` are given the place.
        depth_first: one edit after the other instead of epochs over all.
        batch_size: edits of a step. lr: Adam's learning rate.
        bound: the most that a number may move while one edit is learnt; None: no bound.
    """

    about: str
    tuner: Literal["located", "full", "lora"] = "located"
    depth_first: bool = False
    batch_size: int = 100
    lr: float = 5e-4
    bound: float | None = None


WAYS = {
    "locft-bf": Way("breadth-first, mini-batches, one place (LocFT-BF)"),
    "bf": Way("breadth-first, one edit a step, one place", batch_size=1),
    "df": Way("depth-first, one place: the classic fine-tuning baseline", depth_first=True, batch_size=1),
    "ft-l": Way("depth-first, one place, every number bounded (FT-L)", depth_first=True, batch_size=1, bound=5e-4),
    "full": Way("breadth-first, mini-batches, all weights", tuner="full", lr=5e-5),
    "lora": Way("breadth-first, mini-batches, a low-rank change at one place", tuner="lora"),
}
WHOLE_BLOCK_LR = 5e-5  # where more than one matrix trains, as the paper's configuration for Mistral has it
EPOCHS = 25
LEARNT = 1e-2  # loss below which a batch takes no step, an edit is done, and an epoch is the last


def way(name: str) -> Way:
    """The way of that name. Raises `InputError` that names the nearest."""
    if name not in WAYS:
        raise InputError(f"there is no method {name!r}{suggest(name, WAYS)} (there are {', '.join(WAYS)})")
    return WAYS[name]
