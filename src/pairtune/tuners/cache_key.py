"""What the activation cache knows its files by, and the room that they may take."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pairtune.pair.modality import TEXT, modality_in

if TYPE_CHECKING:
    from pairtune.pair.base import Base
    from pairtune.pair.installed import Installed

KEY_FILE = "key.json"


def token_digests(ids: Tensor, mask: Tensor) -> np.ndarray:
    """[B] one number for each row's real tokens, whatever the padding."""
    kept = [row[real].numpy() for row, real in zip(ids.cpu(), mask.cpu().bool(), strict=True)]
    digests = [hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=8).digest() for row in kept]
    return np.frombuffer(b"".join(digests), dtype="<i8")


def row_digests(batch: dict[str, Any]) -> np.ndarray:
    """[B] one number for each row's input: its real tokens, its pixels or its spectrogram."""
    modality = modality_in(batch)
    if modality is TEXT:
        return token_digests(batch[modality.key], batch["attention_mask"])
    rows = batch[modality.key].cpu().numpy()
    digests = [hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(digests), dtype="<i8")


def stack_digest(base: Base, installed: Installed) -> str | None:
    """Hash of what stands between the base and the features; None where nothing does."""
    called: Any = getattr(installed.model, "base_model", base.model)
    own = {id(parameter) for _, parameter in installed.trainable()} | {id(p) for p in base.parameters.values()}
    foreign = [(name, p) for name, p in sorted(called.named_parameters()) if id(p) not in own]
    if not foreign:
        return None
    total = hashlib.sha256()
    for name, module in called.named_modules():
        if scaling := getattr(module, "scaling", None):
            total.update(f"{name} {scaling!r}".encode())
    for name, parameter in foreign:
        total.update(name.encode())
        total.update(parameter.detach().contiguous().flatten().view(torch.uint8).cpu().numpy().data)
    return total.hexdigest()


def make_room(root: Path, keep: Path, limit: int) -> None:
    """Remove the caches that were used longest ago, until those that stay take at most `limit` bytes."""
    if not root.is_dir():
        return
    others = [path for path in root.iterdir() if path != keep and (path / KEY_FILE).is_file()]
    sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in others}
    total = sum(sizes.values())
    for path in sorted(others, key=lambda path: (path / KEY_FILE).stat().st_mtime):
        if total <= limit:
            return
        shutil.rmtree(path)
        total -= sizes[path]
