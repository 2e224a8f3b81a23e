"""pairtune: fine-tuned models as pairs of a pretrained base and the delta that tuning added.

The names below are imported when they are first used, so that `import pairtune` stays far from torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pairtune.analysis.diff import diff
    from pairtune.analysis.edits import measure_edits
    from pairtune.analysis.evaluate import evaluate
    from pairtune.analysis.knowledge import measure_knowledge
    from pairtune.analysis.memorisation import measure_memorisation
    from pairtune.analysis.sweep import sweep
    from pairtune.analysis.transferability.rank import rank_bases
    from pairtune.data.task import Task
    from pairtune.editing.edit import edit
    from pairtune.editing.reflex.run import steer
    from pairtune.editing.scrub.run import scrub
    from pairtune.generation.engine import generate
    from pairtune.merging.engine.run import merge
    from pairtune.merging.rebase.pair import rebase
    from pairtune.merging.search.loop import search_merge
    from pairtune.ood.scoring import score
    from pairtune.pair.base import Base
    from pairtune.pair.delta import Delta
    from pairtune.pair.pair import Pair
    from pairtune.registry import methods
    from pairtune.training.run import tune

__version__ = "0.1.0"

_HOME = {
    "Base": "pairtune.pair.base",
    "Delta": "pairtune.pair.delta",
    "Pair": "pairtune.pair.pair",
    "Task": "pairtune.data.task",
    "tune": "pairtune.training.run",
    "evaluate": "pairtune.analysis.evaluate",
    "diff": "pairtune.analysis.diff",
    "edit": "pairtune.editing.edit",
    "measure_edits": "pairtune.analysis.edits",
    "measure_knowledge": "pairtune.analysis.knowledge",
    "measure_memorisation": "pairtune.analysis.memorisation",
    "sweep": "pairtune.analysis.sweep",
    "merge": "pairtune.merging.engine.run",
    "rebase": "pairtune.merging.rebase.pair",
    "rank_bases": "pairtune.analysis.transferability.rank",
    "score": "pairtune.ood.scoring",
    "generate": "pairtune.generation.engine",
    "scrub": "pairtune.editing.scrub.run",
    "steer": "pairtune.editing.reflex.run",
    "search_merge": "pairtune.merging.search.loop",
    "methods": "pairtune.registry",
}

__all__ = [
    "Base",
    "Delta",
    "Pair",
    "Task",
    "diff",
    "edit",
    "evaluate",
    "generate",
    "measure_edits",
    "measure_knowledge",
    "measure_memorisation",
    "merge",
    "methods",
    "rank_bases",
    "rebase",
    "score",
    "scrub",
    "search_merge",
    "steer",
    "sweep",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pairtune' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
