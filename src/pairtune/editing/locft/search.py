"""Where to edit: the same edits at one place after the other, each scored by whoever asks.

Yang, Sun et al., arXiv 2509.22072: which module of which block is tuned decides success and cost, and the best one is
another for every model; the paper finds it on a validation set of edits.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.editing.locft.settings import settings_of
from pairtune.tuners.located import matrices, usual_place

if TYPE_CHECKING:
    from pairtune.data.facts import Facts
    from pairtune.pair.base import Base
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")


def places(base: Base, modules: Sequence[str] | None = None) -> list[str]:
    """Every block with each of some modules; by default the feed-forward part's ways in and out, where edits are
    known to work best.

    Raises `InputError` for a base without such a part.
    """
    if modules is None:
        way_out = usual_place(base).partition(":")[2]
        prefix = way_out.rpartition(".")[0]
        shapes = matrices(base.blocks[0][1])
        modules = [
            path
            for path, (into, out) in shapes.items()
            if path.rpartition(".")[0] == prefix and {into, out} == set(shapes[way_out])
        ]
    return [f"{number}:{module}" for number in range(len(base.blocks)) for module in modules]


def search_location(
    pair: Pair, facts: Facts, where: Sequence[str], score: Callable[[Pair], float], settings: Mapping[str, Any]
) -> dict[str, float]:
    """Place → score of the pair with the edits there; the pair is as it was afterwards.

    Args:
        facts: validation edits; take others than those that are to be made.
        score: of the edited pair, higher is better; what counts is the caller's choice.
        settings: as in `edit`, without `at`.
    """
    from pairtune.editing.locft.apply import apply

    found = {}
    for place in where:
        with tempfile.TemporaryDirectory(prefix="pairtune-") as work:
            apply(pair, facts, settings_of({**settings, "at": place}), Path(work))
        try:
            found[place] = score(pair)
        finally:
            pair.pop()
        log.info("at %s: %.4f", place, found[place])
    return found
