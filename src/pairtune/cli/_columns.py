"""Where the inputs of `pairtune score` stand in a file: columns of texts and answers, or files of images and sound."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.errors import DataError, InputError
from pairtune.registry import suggest

if TYPE_CHECKING:
    from pairtune.ood.inputs import Input
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")


@dataclass(frozen=True)
class Files:
    """Images or recordings, and the column that names them in a table."""

    modality: str
    column: str | None

    def rows(self, path: Path) -> Iterator[tuple[int, Input]]:
        """(number or line, input) of every file. Raises as `ood.media.inputs_in`."""
        from pairtune.ood.media import inputs_in

        return inputs_in(path, self.modality, self.column)


@dataclass(frozen=True)
class Columns:
    """Where a row's text and answer stand."""

    text: list[str] | None
    known: list[str]
    answer: str | None
    known_answer: str | None

    @classmethod
    def of(cls, text: list[str] | None, answer: str | None, pair: Pair, answers: bool) -> Columns:
        """From the command line, else as the pair's task names them. Raises `InputError` for an answer nobody reads."""
        if answer and not answers:
            raise InputError("--answer: no detector here reads one; take --detector log-ratio:answer-given-question")
        known = (pair.card.task or {}) if pair.card else {}
        target = known.get("label") if answers and known.get("kind") in ("lm", "seq2seq") else None
        return cls(text, known.get("text", []), answer, target)

    def rows(self, path: Path) -> Iterator[tuple[int, Input]]:
        """(line, input) of every row. Raises `DataError` with file and line for a row that cannot be scored."""
        from pairtune.data.readers import read
        from pairtune.ood.inputs import Input

        text = self.text
        for line, row in read(path):
            text = text or self._guess(row, path, line)[0]
            for name in [*text, *([self.answer] if self.answer else [])]:
                if name not in row:
                    hint = suggest(name, row)
                    raise DataError(f"there is no column {name!r} (columns: {', '.join(row)}){hint}", path, line)
            values = [row[name] for name in text]
            if len(values) == 1 and isinstance(values[0], list):
                yield line, _conversation(values[0], text[0], path, line)
                continue
            wrong = next((i for i, value in enumerate(values) if not isinstance(value, str)), None)
            if wrong is not None:
                raise DataError(f"{text[wrong]!r} is not a text but {_kind(values[wrong])}", path, line)
            answer = row.get(self.answer or self.known_answer or "")
            if answer is not None and not isinstance(answer, str):
                raise DataError(f"{self.answer or self.known_answer!r} is not a text but {_kind(answer)}", path, line)
            yield line, Input(tuple(values), answer if answer and not answer.isspace() else None)

    def settled(self, path: Path) -> Columns:
        """With the text columns that the first row has, and a word about them where they are not the pair's own."""
        from pairtune.data.readers import read

        if self.text:
            return self
        line, row = next(iter(read(path)), (0, {}))
        text, why = self._guess(row, path, line)
        if why:
            log.warning("%s: %s; to say otherwise: --text", path, why)
        return replace(self, text=text)

    def _guess(self, row: dict[str, Any], path: Path, line: int) -> tuple[list[str], str]:
        """The text columns of a row, and what to tell of them."""
        if self.known and all(name in row for name in self.known):
            return self.known, ""
        texts = [name for name, value in row.items() if isinstance(value, str)]
        found = "text" if "text" in row else max(texts, key=lambda name: len(row[name]), default=None)
        if found is None:
            raise DataError(f"no text column (columns: {', '.join(row)}); name it with --text", path, line)
        if found == "text" and len(self.known) < 2:  # what every other tool takes as well
            return [found], ""
        usual = f" (the pair was tuned on {', '.join(self.known)})" if self.known else ""
        return [found], f"texts are read from column {found!r}{usual}"


def _conversation(value: list[Any], column: str, path: Path, line: int) -> Input:
    from pairtune.ood.inputs import Input

    try:
        return Input.of(value if value and all(isinstance(turn, dict) for turn in value) else [])
    except DataError as error:
        raise DataError(f"{column!r}: {error}", path, line) from None


def _kind(value: Any) -> str:
    return "nothing (null)" if value is None else type(value).__name__
