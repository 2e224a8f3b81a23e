"""Images and sound as what detectors read: files, folders and lists of files to batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pairtune.data.collate import Collator
from pairtune.data.media import Media, MediaError, modality_by_name
from pairtune.data.media_folder import FolderRows, media_files
from pairtune.data.media_table import looks_like, with_media
from pairtune.data.split import Split
from pairtune.errors import DataError, InputError
from pairtune.ood.inputs import Input, Row

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair

AT_ONCE = 256  # files that are decoded together while a detector learns


class MediaRow:
    """One image or recording to score: its file, and its class (−1: none)."""

    answer = None

    def __init__(self, media: Media, positions: int):
        self.media, self.longest, self.target = media, positions, -1
        self.question = Row([0] * positions, [1] * positions, [None] * positions)


class MediaBatcher:
    """What `Batcher` is for texts. Files are decoded a batch at a time.

    Attributes:
        max_length: the positions that every input has.
    """

    new_tokens = 0

    def __init__(self, pair: Pair):
        self.pair, self.reader = pair, self
        self.max_length: int = pair.base.tokenizer.positions
        self._collate = Collator(pair.base.tokenizer, pair.base.family)

    def text(self, one: Input) -> str:
        """What an input is called."""
        return str(one.texts[0])

    def rows(self, inputs: Sequence[Input]) -> list[MediaRow]:
        """A row an input; a text is taken for a file's name."""
        return [MediaRow(self._media(one), self.max_length) for one in inputs]

    def _media(self, one: Input) -> Media:
        given: Any = one.texts[0] if len(one.texts) == 1 else None
        if isinstance(given, str):
            given = Media(self.pair.base.modality.name, Path(given).expanduser(), given)  # type: ignore[arg-type]
        if not isinstance(given, Media):
            raise DataError(f"expected an {self.pair.base.modality.one} or its file, found {str(one)[:80]!r}")
        return given

    def batch(self, rows: Sequence[MediaRow]) -> dict[str, Any]:
        """One batch on the pair's device. Raises `DataError` naming a file that cannot be decoded."""
        decoded = []
        for row in rows:
            try:
                row.media.check()
                decoded.append(row.media.decode())
            except MediaError as error:
                raise DataError(str(error), str(row.media)) from None
        base = self.pair.base
        made: dict[str, Any] = self._collate([{base.modality.key: one} for one in base.tokenizer(decoded)])
        made = {name: tensor.to(base.device) for name, tensor in made.items()}
        made["classes"] = torch.tensor([row.target for row in rows])
        return made

    def labelled(self, task: Task, split: Split) -> Iterator[dict[str, Any]]:
        """Batches of a split's rows with their classes; of a task with classes, the rows that have one."""
        chosen: list[MediaRow] = []
        for row in split:
            target = task.target(row) if task.kind == "classification" else -1
            if target is None:
                continue
            chosen.append(MediaRow(row[task.text[0]], self.max_length))
            chosen[-1].target = target
            if len(chosen) == AT_ONCE:
                yield self.batch(chosen)
                chosen = []
        if chosen:
            yield self.batch(chosen)


def inputs_in(path: Path, modality: Any, column: str | None) -> Iterator[tuple[int, Input]]:
    """(number or line, input) of a folder (at any depth), a single file, or a table or list that names files.

    Raises `InputError` where no column names such files, `DataError` for a file that is not there or is empty.
    """
    split = _split(path, modality, column)
    name = column or next(
        (
            one
            for one in split.columns
            if all(looks_like(split[i].get(one)) == modality for i in range(min(20, len(split))))
        ),
        None,
    )
    if name is None:
        there = ", ".join(split.columns)
        raise InputError(f"{path}: no column names {modality} files (columns: {there}); name it with --text")
    split.require(name)
    split = with_media(split, name, modality)
    for i, media in enumerate(split.values(name)):
        try:
            media.check()
        except MediaError as error:
            raise split.error(i, media.failure(error)) from None
        yield split.place(i)[1] or i + 1, Input((media,))


def _split(path: Path, modality: Any, column: str | None) -> Split:
    if path.is_dir() or modality_by_name(path.name):
        if column is not None:
            raise InputError("--text: a folder or a single file has no columns")
        every = media_files(path) if path.is_dir() else [(path, None)]
        files = [(file, None) for file, _ in every if modality_by_name(file.name) == modality]
        if not files:
            raise InputError(f"{path}: there is no {modality} file in it")
        return Split(FolderRows(modality, files), [(0, str(path))])
    return Split.read(path)


def content_of(rows: Iterator[tuple[int, Input]]) -> Mapping[str, Any]:
    """What inputs are, by their contents, for a run that goes on."""
    import hashlib

    total = hashlib.blake2b(digest_size=16)
    for _, one in rows:
        given: Any = one.texts[0]
        total.update(given.digest.encode())
    return {"media": total.hexdigest()}
