"""Every error that pairtune raises on purpose.

A message is one sentence a person can act on: what was wrong, where, what was expected and found, what to try. The
command line prints it without a traceback and leaves with `exit_code`: 2 when the user's input was wrong, 1 when the
work itself failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class PairtuneError(Exception):
    """The work failed for a reason that pairtune understands."""

    exit_code = 1


class NonFiniteError(PairtuneError):
    """A loss, gradient or tensor became NaN or infinite; the message says at which step and in which layer."""


class DiskFull(PairtuneError):
    """There is not enough room to write; the message gives the bytes needed and the bytes free."""


class InputError(PairtuneError):
    """What the user gave (a name, a file, a setting) cannot be used."""

    exit_code = 2


class ConfigError(InputError):
    """One or several settings are wrong; all of them stand in one message."""

    def __init__(self, problems: Sequence[str], where: str = "the configuration"):
        self.problems = list(problems)
        head = f"{where} has {len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}:"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]))


class DataError(InputError):
    """A data file cannot be read as asked; names the file and, for a bad row, its line (1-based)."""

    def __init__(self, message: str, file: str | Path | None = None, line: int | None = None):
        self.file, self.line = file, line
        where = "" if file is None else f"{file}: " if line is None else f"{file}, line {line}: "
        super().__init__(where + message)


class FormatError(InputError):
    """A weights or manifest file is damaged, hostile or of an unknown format."""


class BaseMismatch(InputError):
    """A delta was made on another base, tokenizer or vocabulary; names the first tensor that differs."""


class DeltaMismatch(InputError):
    """A delta's tensors do not fit: missing, unexpected, of another shape, or not finite."""


class MissingView(InputError):
    """An operation needs a view (tokens, labels, ...) that this pair does not have; names what works instead."""


class RunLocked(InputError):
    """Another live process is training into the same folder."""


class ResumeMismatch(InputError):
    """The data, settings or code differ from those of the run that is to be resumed; lists the differences."""
