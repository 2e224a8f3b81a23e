"""Activations of a frozen base, computed once a text and read from a file in every later epoch.

How the loop uses it, for any tuner whose `Installed` provides "cacheable" (it knows nothing else of the tuner):

    cache = ActivationCache.open(folder, base, installed, data=fingerprint_of_the_split, rows=len(split), limit=bytes)
    batch["features"] = cache.features(batch, installed.features)     # batch["index"]: [B] row numbers in the split
    out = installed.model(**model_inputs(batch))                      # the base is not run

The first epoch computes and stores, later ones read. One file a split, a base, a stack and a way to read it: the key
holds all of them. Rows beyond the limit are computed anew each time. A row whose tokens differ from those stored for
it means that the data changes from epoch to epoch (augmentation), which no cache can serve: `InputError`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pairtune.errors import InputError
from pairtune.pair.files import write_json
from pairtune.tuners.cache_key import KEY_FILE, make_room, row_digests, stack_digest

if TYPE_CHECKING:
    from pairtune.pair.base import Base
    from pairtune.pair.installed import Installed

log = logging.getLogger("pairtune")
Compute = Callable[[dict[str, Any]], dict[str, Tensor]]
_ROWS = "rows.npy"
_RECORD = np.dtype([("tokens", "<i8"), ("crc", "<u4"), ("known", "?")])


class ActivationCache:
    """Features of one split's rows in memory-mapped files.

    Args:
        folder: this cache's own folder.
        rows: rows of the split. limit: bytes that the features may take on disk.
    """

    def __init__(self, folder: Path, rows: int, limit: int):
        self.folder, self.rows, self.limit = folder, rows, limit
        self.kept = rows
        self.computed = 0
        self._arrays: dict[str, np.memmap] = {}
        self._records: np.memmap | None = None
        self._checked = np.zeros(rows, dtype=bool)

    @classmethod
    def open(
        cls,
        root: Path,
        base: Base,
        installed: Installed,
        *,
        data: str,
        rows: int,
        max_length: int,
        limit: int = 4 << 30,
    ) -> ActivationCache:
        """The cache of a split under `root`; others there are removed, the oldest first, to stay within `limit` bytes.

        Args:
            data: fingerprint of the split's rows. max_length: longest input in tokens.
        """
        key = {
            "base": base.fingerprint.weights,
            "tokenizer": base.fingerprint.tokenizer,
            "dtype": str(base.dtype),
            "quantize": base.quantize,
            "stack": stack_digest(base, installed),
            "features": installed.cache_key(),  # type: ignore[attr-defined]
            "data": data,
            "rows": rows,
            "max_length": max_length,
        }
        text = json.dumps(key, sort_keys=True)
        folder = Path(root) / hashlib.sha256(text.encode()).hexdigest()[:24]
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / KEY_FILE, key)
        return cls(folder, rows, limit)

    def features(self, batch: dict[str, Any], compute: Compute) -> dict[str, Tensor]:
        """The features of a batch's rows, read where they are known and computed (and kept) where not.

        Args:
            batch: model inputs with `index`, [B] row numbers. compute: features of a batch, by name, [B, ...] each.

        Raises `InputError` where a row's tokens are not those of an earlier epoch.
        """
        index = batch["index"].cpu().numpy()
        tokens = row_digests(batch)
        if self._known(index, tokens):
            device = batch["attention_mask"].device
            return {name: torch.from_numpy(array[index]).to(device) for name, array in self._arrays.items()}
        self.computed += len(index)
        found = compute(batch)
        self._store(index, tokens, found)
        return found

    def _known(self, index: np.ndarray, tokens: np.ndarray) -> bool:
        """Whether every row is stored whole; those read for the first time are checked against their checksum."""
        if self._records is None and not self._reopen():
            return False
        assert self._records is not None
        stored = index < self.kept
        records = self._records[np.where(stored, index, 0)]
        known = stored & records["known"]
        changed = index[known & (records["tokens"] != tokens)]
        if len(changed):
            raise InputError(
                f"row {int(changed[0])} has other tokens than when its activations were stored: the inputs change from "
                "epoch to epoch (augmentation?), so that they cannot be cached; switch the cache off"
            )
        if not known.all():
            return False
        for row in index[~self._checked[index]]:
            if self._crc(row) != self._records[row]["crc"]:
                return False  # torn by a crash: it is computed and written again
            self._checked[row] = True
        return True

    def _store(self, index: np.ndarray, tokens: np.ndarray, found: Mapping[str, Tensor]) -> None:
        if self._records is None:
            self._create(found)
        assert self._records is not None
        keep = np.flatnonzero(index < self.kept)
        for name, value in found.items():
            self._arrays[name][index[keep]] = value.detach().float().cpu().numpy()[keep]
        for at in keep:
            row = index[at]
            self._records[row] = (tokens[at], self._crc(row), True)  # last, so that a torn row is not taken for whole
            self._checked[row] = True

    def _crc(self, row: int) -> int:
        value = 0
        for name in sorted(self._arrays):
            value = zlib.crc32(np.ascontiguousarray(self._arrays[name][row]).data, value)
        return value

    def _create(self, found: Mapping[str, Tensor]) -> None:
        """Make the files, as large as the rows that fit; the disk's free space counts, too."""
        a_row = sum(value[0].numel() * 4 for value in found.values()) + _RECORD.itemsize
        room = min(self.limit, int(0.8 * shutil.disk_usage(self.folder).free))
        self.kept = min(self.rows, max(room // a_row, 0))
        if self.kept < self.rows:
            log.info("activation cache: %d of %d rows fit into %.1f GB", self.kept, self.rows, room / 1e9)
        make_room(self.folder.parent, self.folder, self.limit - self.kept * a_row)
        shape = max(self.kept, 1)
        for name, value in found.items():
            self._arrays[name] = np.lib.format.open_memmap(
                self.folder / f"{name}.npy", mode="w+", dtype=np.float32, shape=(shape, *value.shape[1:])
            )
        self._records = np.lib.format.open_memmap(self.folder / _ROWS, mode="w+", dtype=_RECORD, shape=(shape,))

    def _reopen(self) -> bool:
        """Take up the files of an earlier run; False where there are none or they are not whole."""
        paths = [path for path in self.folder.glob("*.npy") if path.name != _ROWS]
        if not paths or not (self.folder / _ROWS).is_file():
            return False
        try:
            records = np.lib.format.open_memmap(self.folder / _ROWS, mode="r+")
            arrays = {path.stem: np.lib.format.open_memmap(path, mode="r+") for path in paths}
        except (ValueError, OSError):
            return False
        if records.dtype != _RECORD or any(len(array) != len(records) for array in arrays.values()):
            return False
        self._records, self._arrays, self.kept = records, arrays, min(len(records), self.rows)
        return True
