"""The result's files, filled tensor by tensor in any order, with a journal that a killed merge continues from.

All files get their headers and their full length first, so that a full disk shows before any work. A tensor that is
done has a line in the journal with the hash of its bytes; who continues compares the bytes that are there with it, so
that the journal need not be trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pairtune.errors import FormatError
from pairtune.merging.engine.layout import Shard
from pairtune.pair.disk import check_room, sync_folder, writing
from pairtune.pair.files import open_safetensors

JOURNAL = "merge.journal"
_READ = 1 << 22


class Writer:
    """Open it with `with`; `put` may be called from several threads, each for its own tensor.

    Args:
        folder: where the files are made.
        shards: what they hold.
        plan: identifies the work; a journal of another plan is not continued.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard], plan: str):
        self.folder, self.shards, self.plan = folder, shards, plan
        self.digests: dict[str, str] = {}
        self._place = {name: shard for shard in shards for name in shard.entries}
        self._files: dict[str, int] = {}
        self._lock = threading.Lock()
        self._journal = -1

    def __enter__(self) -> Writer:
        with writing(self.folder / self.shards[0].file, sum(shard.size for shard in self.shards)):
            self._open()
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in (*self._files.values(), self._journal):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._files.clear()

    def put(self, name: str, pieces: Iterable[Tensor]) -> None:
        """Write one tensor. Raises `DiskFull`, and `FormatError` where the pieces are not as long as was announced."""
        shard = self._place[name]
        entry = shard.entries[name]
        at, digest = entry.begin, hashlib.sha256()
        with writing(self.folder / shard.file):
            for piece in pieces:
                if not piece.numel():
                    continue
                data = piece.contiguous().reshape(-1).view(torch.uint8).numpy().data
                digest.update(data)
                while data:
                    written = os.pwrite(self._files[shard.file], data, at)
                    data, at = data[written:], at + written
            if at != entry.end:
                raise FormatError(
                    f"{name}: {at - entry.begin:,} bytes were made, {entry.end - entry.begin:,} announced"
                )
            self._note(name, digest.hexdigest())

    def finish(self) -> dict[str, dict[str, Any]]:
        """Remove the journal; what `complete.seal` wants to know of the files. Every tensor must have been written."""
        if missing := self._place.keys() - self.digests.keys():
            raise FormatError(f"{self.folder}: {len(missing)} tensors were not written")
        (self.folder / JOURNAL).unlink()
        return {shard.file: self._described(shard) for shard in self.shards}

    def _described(self, shard: Shard) -> dict[str, Any]:
        opened = open_safetensors(self.folder / shard.file)
        header = hashlib.sha256(opened.header()).hexdigest()
        return {"size": shard.size, "header": header, "tensors": {name: self.digests[name] for name in opened}}

    def _open(self) -> None:
        kept = dict(self._kept())
        if not kept:
            for path in self.folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        wanted = {JOURNAL, *(shard.file for shard in self.shards)}
        for path in self.folder.iterdir():
            if path.name not in wanted:  # the small files of a merge that was killed at its end
                path.unlink()
        if not kept:
            check_room(self.folder / self.shards[0].file, sum(shard.size for shard in self.shards))
        for shard in self.shards:
            path = self.folder / shard.file
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            self._files[shard.file] = descriptor
            _reserve(descriptor, shard.size)
            os.pwrite(descriptor, shard.header, 0)
        self._check(kept)
        self._begin_journal()
        sync_folder(self.folder)

    def _begin_journal(self) -> None:
        """A fresh journal with what was found whole takes the place of the old one, whose last line may be torn."""
        fresh = self.folder / f"{JOURNAL}.new"
        self._journal = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
        lines = [{"plan": self.plan}, *({"tensor": name, "sha256": digest} for name, digest in self.digests.items())]
        os.write(self._journal, "".join(json.dumps(line) + "\n" for line in lines).encode())
        os.replace(fresh, self.folder / JOURNAL)

    def _kept(self) -> Iterator[tuple[str, str]]:
        """What the journal of an earlier attempt at the same work says; a torn last line is left out."""
        try:
            lines = (self.folder / JOURNAL).read_bytes().decode().splitlines()
            first, *rest = [json.loads(line) for line in lines if line.endswith("}")]
        except (OSError, ValueError):
            return
        if first != {"plan": self.plan}:
            return
        for line in rest:
            if line.get("tensor") in self._place:
                yield line["tensor"], str(line.get("sha256"))

    def _check(self, kept: dict[str, str]) -> None:
        for name, digest in kept.items():
            shard = self._place[name]
            entry, found = shard.entries[name], hashlib.sha256()
            for at in range(entry.begin, entry.end, _READ):
                found.update(os.pread(self._files[shard.file], min(_READ, entry.end - at), at))
            if found.hexdigest() == digest:
                self.digests[name] = digest

    def _note(self, name: str, digest: str) -> None:
        line = (json.dumps({"tensor": name, "sha256": digest}) + "\n").encode()
        with self._lock:
            os.write(self._journal, line)
            self.digests[name] = digest


def _reserve(descriptor: int, size: int) -> None:
    """Give a file its length, with its room on the disk where the system can say so."""
    if os.fstat(descriptor).st_size != size:
        os.ftruncate(descriptor, size)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
