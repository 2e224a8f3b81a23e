"""Tasks: data, their columns and named splits, and what a model reads of them.

Reading and checking a task needs neither torch nor transformers; the names below are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pairtune.data.buckets import batches
    from pairtune.data.checks import Finding, check, report
    from pairtune.data.collate import Collator
    from pairtune.data.encode import Encoder
    from pairtune.data.encoded import Encoded
    from pairtune.data.packing import Packed, pack
    from pairtune.data.readers import read
    from pairtune.data.split import Split
    from pairtune.data.task import Task

_HOME = {
    "Collator": "collate",
    "Encoded": "encoded",
    "Encoder": "encode",
    "Finding": "checks",
    "Packed": "packing",
    "Split": "split",
    "Task": "task",
    "batches": "buckets",
    "check": "checks",
    "pack": "packing",
    "read": "readers",
    "report": "checks",
}

__all__ = [
    "Collator",
    "Encoded",
    "Encoder",
    "Finding",
    "Packed",
    "Split",
    "Task",
    "batches",
    "check",
    "pack",
    "read",
    "report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pairtune.data' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"pairtune.data.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
