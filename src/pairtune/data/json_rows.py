"""Rows of JSON files: one object a line, or an array of objects read element by element in constant memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pairtune.data.opening import TextStream, numbered_lines, reading
from pairtune.errors import DataError

_CHUNK = 1 << 16  # bytes; an element that is longer is read in pieces that double
_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_CUT = 16  # characters: an error this close to the end of what was read may be the cut, not the file


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of a JSONL file; blank lines are skipped. Raises `DataError` naming the line of a fault."""
    for line, text in numbered_lines(path):
        if text.strip():
            try:
                yield line, _row(path, line, _DECODER.decode(text), text)
            except json.JSONDecodeError as error:
                hint = "; if one object spans several lines, call the file .json" if line == 1 else ""
                what = f"not valid JSON: {error.msg} (column {error.colno}); expected one object a line{hint}"
                raise DataError(what, path, line) from None
            except (ValueError, RecursionError) as error:
                raise _unusable(path, line, error) from None


def read_document(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line on which it starts, object) of a JSON file: an array of objects, or one object a line as in JSONL."""
    with reading(path) as stream:
        cursor = _Cursor(path, TextStream(path, stream))
        first = cursor.peek()
        if first == "[":
            yield from _array(cursor)
        elif first and first != "{":
            raise DataError(f"expected an array of objects, found {first!r}", path, cursor.line)
    if first == "{":
        yield from read_lines(path)


def _array(cursor: _Cursor) -> Iterator[tuple[int, dict[str, Any]]]:
    cursor.advance(cursor.at + 1)
    if cursor.peek() == "]":
        return
    while True:
        cursor.peek()
        line = cursor.line
        yield line, cursor.element()
        mark = cursor.peek()
        if mark == "]":
            cursor.advance(cursor.at + 1)
            if cursor.peek():
                raise DataError("there is text behind the end of the array", cursor.path, cursor.line)
            return
        if mark != ",":
            found = repr(mark) if mark else "the end of the file: it is cut off"
            raise DataError(f"expected ',' or ']' after an element, found {found}", cursor.path, cursor.line)
        cursor.advance(cursor.at + 1)


class _Cursor:
    """A place in a JSON text that is read as it is needed."""

    def __init__(self, path: Path, source: TextStream):
        self.path = path
        self.line = 1
        self.at = 0
        self._text = ""
        self._source = source

    def advance(self, end: int) -> None:
        self.line += self._text.count("\n", self.at, end)
        self.at = end

    def peek(self) -> str:
        """The next character that is not white space, empty at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self.at)
            assert match is not None
            self.advance(match.end())
            if self.at < len(self._text):
                return self._text[self.at]
            if not self._more():
                return ""

    def element(self) -> dict[str, Any]:
        """The object at this place; the cursor stands behind it then."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self.at)
            except json.JSONDecodeError as error:
                line = self.line + self._text.count("\n", self.at, error.pos)
                open_end = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _CUT
                if open_end and self._more():
                    continue
                raise DataError(f"not valid JSON: {error.msg}", self.path, line) from None
            except (ValueError, RecursionError) as error:
                raise _unusable(self.path, self.line, error) from None
            try:
                row = _row(self.path, self.line, value, self._text[self.at : end])
            except ValueError as error:
                raise _unusable(self.path, self.line, error) from None
            self.advance(end)
            return row

    def _more(self) -> bool:
        rest = self._text[self.at :]
        piece = self._source.read(max(_CHUNK, len(rest)))
        self._text, self.at = rest + piece, 0
        return bool(piece)


def _row(path: Path, line: int, value: Any, text: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"expected an object (column: value), found {type(value).__name__}", path, line)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair cannot be tokenised nor written
    return value


def _unusable(path: Path, line: int, error: ValueError | RecursionError) -> DataError:
    return DataError("nested too deeply" if isinstance(error, RecursionError) else str(error), path, line)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the key {twice[:200]!r} occurs twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repetition)
