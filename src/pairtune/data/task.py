"""A task: data in named splits, which of its columns are text and label, and what kind of thing is learnt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pairtune.data.columns import is_chat
from pairtune.data.labels import PARSE, is_blank
from pairtune.data.split import Split
from pairtune.data.verbalise import SEPARATOR, join
from pairtune.errors import InputError
from pairtune.registry import suggest

Kind = Literal["classification", "multilabel", "regression", "lm", "seq2seq"]
KINDS = ("classification", "multilabel", "regression", "lm", "seq2seq")


@dataclass(frozen=True)
class Task:
    """Data and what is to be learnt from them; every row has been read and fits.

    Attributes:
        kind: "classification" (one label a row), "multilabel" (any number), "regression" (a number), "lm" (a text to
            continue: whole, from a prompt, or a conversation) or "seq2seq" (a text to write from another).
        text: one or two text columns; or the one column of what is read instead of text.
        label: the column of the label; of the target for "seq2seq"; of the completion for "lm", None for plain text.
        labels: the class names in the order of their indices; empty for the other kinds.
        splits: "train", "validation", "test" and "ood/<name>". Rows of OOD splits may have no label, or another one.
        separator: what stands between two text columns, and between text and completion, on a language model.
        notes: what was decided while loading and is not in the files: held-out rows, files that were not used.
        guessed: why a column or the kind was chosen, where nobody named it.
        labels_given: whether the label list was given rather than collected from the rows.
        modality: "text", "image" or "audio": what is read.
    """

    name: str
    kind: Kind
    text: tuple[str, ...]
    label: str | None
    labels: list[str]
    splits: dict[str, Split]
    separator: str = SEPARATOR
    notes: tuple[str, ...] = ()
    guessed: dict[str, str] = field(default_factory=dict)
    labels_given: bool = False
    modality: str = "text"

    @classmethod
    def load(
        cls,
        source: str | Path | Mapping[str, Any] | None = None,
        kind: str | None = None,
        text: str | Sequence[str] | None = None,
        label: str | None = None,
        splits: Mapping[str, Any] | None = None,
        labels: Sequence[Any] | None = None,
        *,
        separator: str | None = None,
        name: str | None = None,
    ) -> Task:
        """Load a task; what is not named is guessed, and `describe()` shows the guesses.

        Args:
            source: a folder with train, validation (or valid, val, dev), test and `ood/<name>` files, or folders of
                images or recordings by class; one file, or folder of class folders, which is split 80 / 10 / 10; a
                YAML file or mapping with `source` and the other arguments (in YAML, paths are
                relative to it); a data set of the hub, `owner/name`, `owner/name:config` or `owner/name@revision`;
                `demo:<name>`, which ships with the package. None where `splits` names files.
            splits: split → file or files (paths relative to the source) or, for a hub data set, its split's name. They
                are laid over what the source has; None leaves a split out.
            labels: the class names in order; a label that is not among them is an error then.

        Without a validation split a tenth of train is held out, by the hash of the text.

        Raises `InputError` for a source, column or setting that does not exist, `DataError` with file and line for
        data that cannot be used.
        """
        from pairtune.data.load import load_task

        given = {"kind": kind, "text": text, "label": label, "splits": splits, "labels": labels}
        given |= {"separator": separator, "name": name}
        return load_task(source, {key: value for key, value in given.items() if value is not None})

    def split(self, name: str) -> Split:
        """A split by its name, "ood/" being optional. Raises `InputError` naming those that there are."""
        found = self.splits.get(name, self.splits.get(f"ood/{name}"))
        if found is None:
            raise InputError(
                f"{self.name}: there is no split {name!r} (splits: {', '.join(self.splits)})"
                f"{suggest(name, self.splits)}"
            )
        return found

    def prompt(self, row: Mapping[str, Any]) -> str:
        """The text of a row as a language model reads it, its columns joined; the name of an image or a recording."""
        if self.modality != "text":
            return str(row[self.text[0]])
        return join([row[column] for column in self.text], self.separator)

    def target(self, row: Mapping[str, Any]) -> Any:
        """The label of a row: the class index, the list of indices (multilabel), the number, or the text to write.

        None where the row has none that the task knows (only rows of OOD splits) or where the task has no label.
        """
        value = None if self.label is None else row.get(self.label)
        if is_blank(value, self.kind):
            return None
        value = PARSE[self.kind](value)
        if self.kind == "classification":
            return self._index.get(value)
        if self.kind == "multilabel":
            indices = [self._index.get(one, -1) for one in value]
            return None if -1 in indices else sorted(indices)
        return value

    @cached_property
    def _index(self) -> dict[str, int]:
        return {label: i for i, label in enumerate(self.labels)}

    @cached_property
    def is_chat(self) -> bool:
        """Whether the text is a conversation: a list of messages with `role` and `content`."""
        return len(self.text) == 1 and is_chat(next(iter(self.splits.values()))[0].get(self.text[0]))

    def on(self, family: str) -> Task:
        """The task as a model family takes it: a text to write from another is "lm" on a causal base, else "seq2seq".

        Plain text is also for encoders, which learn to say tokens that are hidden from them. Raises `InputError` where
        the family cannot do it at all.
        """
        writes = self.kind in ("lm", "seq2seq")
        if not writes or (self.kind, family) in (("lm", "causal"), ("seq2seq", "seq2seq")):
            return self
        if self.modality == "text" and (self.kind, self.label, self.is_chat, family) == ("lm", None, False, "encoder"):
            return self
        if family == "encoder" or self.label is None:
            raise InputError(
                f"{self.name}: {'a text to write' if self.label else 'plain text'} cannot be learnt by an "
                f"{'encoder' if family == 'encoder' else 'encoder-decoder'}; take a causal language model"
                + (" or an encoder-decoder" if self.label else "")
            )
        return replace(self, kind="lm" if family == "causal" else "seq2seq")

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that training sees: kind, columns, labels, separator, and the rows of train and validation."""
        parts = [self.kind, self.text, self.label, self.labels, self.separator]
        seen = {name: self.splits[name].fingerprint for name in ("train", "validation") if name in self.splits}
        return hashlib.sha256(json.dumps([*parts, seen]).encode()).hexdigest()

    def describe(self) -> str:
        """A text table: columns and what was guessed of them, split sizes, label counts, notes."""
        from pairtune.data.describe import describe

        return describe(self)
