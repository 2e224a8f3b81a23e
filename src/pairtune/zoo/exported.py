"""A zoo model's folder, written beside the old one and renamed: whoever loads it sees the old one or the new one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `out` when the block ends; an error leaves `out` as it was."""
    part, old = out.with_name(out.name + ".part"), out.with_name(out.name + ".old")
    for stale in (part, old):
        shutil.rmtree(stale, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    for file in part.iterdir():
        file.chmod(0o644)  # safetensors writes files that only their owner may read
    if out.exists():
        out.rename(old)
    part.rename(out)
    shutil.rmtree(old, ignore_errors=True)
