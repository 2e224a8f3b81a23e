"""What every verb stands in: errors without a traceback, results on stdout, everything else on stderr.

Exit codes: 0 done, 1 the work failed, 2 the user's input cannot be used, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from pairtune.errors import PairtuneError

SECRETS = re.compile(r"TOKEN|API_KEY|SECRET|PASSWORD")
_kept_stdout: TextIO | None = None


def guarded(work: Callable[[], int | None]) -> int:
    """Run a verb and turn what it raises into one message on stderr and an exit code."""
    try:
        return work() or 0
    except PairtuneError as error:
        return fail(str(error), error.exit_code)
    except KeyboardInterrupt as stop:  # whoever kept something says so in the exception's text
        return fail(str(stop) or "stopped", 130, word="stopped" if str(stop) else "")
    except BrokenPipeError:  # the reader of our output (`| head`) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return fail(f"the disk is full ({error.filename or 'while writing'}); free some space and run it again", 1)
        place = f"{error.filename}: " if error.filename else ""
        return fail(f"{place}{error.strerror or error}", 2 if isinstance(error, FileNotFoundError) else 1)
    except MemoryError:
        return fail("out of memory; try a smaller batch or a smaller base", 1)
    except Exception as error:
        if os.environ.get("PAIRTUNE_TRACEBACK"):
            traceback.print_exc()
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}, in {last.name}"
        hint = "set PAIRTUNE_TRACEBACK=1 to see the whole trace"
        return fail(f"{type(error).__name__}: {error} ({where})\nthis is a fault in pairtune; {hint}", 1)


def fail(message: str, code: int, word: str = "error") -> int:
    """Print `error: message` on stderr, secrets removed, and give the code back."""
    print(redact(f"{word}: {message}" if word else message), file=sys.stderr)
    return code


def redact(text: str) -> str:
    """The text without the values of the environment's tokens and without anything that looks like a hub token."""
    for name, value in os.environ.items():
        if SECRETS.search(name) and len(value) >= 8:
            text = text.replace(value, f"<{name}>")
    return re.sub(r"\bhf_[A-Za-z0-9]{16,}", "<token>", text)


def emit(result: Any, as_json: bool, text: Any = None) -> None:
    """Print a verb's result on stdout: one JSON document, or `text` (a string or anything that rich can draw)."""
    out = _kept_stdout or sys.stdout
    if as_json:
        print(json.dumps(plain(result), ensure_ascii=False, indent=2, allow_nan=False), file=out, flush=True)
    elif isinstance(text, str):
        print(text, file=out, flush=True)
    else:
        from rich.console import Console

        Console(file=out, width=None if out.isatty() else 120).print(text)


def plain(value: Any) -> Any:
    """The value made of what JSON has: sets sorted, paths as text, tensors as lists, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    return plain(vars(value)) if hasattr(value, "__dataclass_fields__") else str(value)


def columns(rows: Sequence[Sequence[Any]], head: Sequence[str] = (), indent: str = "") -> str:
    """Rows as aligned text; the last column is wrapped to the terminal's width."""
    cells = [[str(cell) for cell in row] for row in ([head] if head else []) + list(rows)]
    if not cells:
        return ""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]) - 1)]
    left = len(indent) + sum(widths) + 2 * len(widths)
    room = max(shutil.get_terminal_size((120, 24)).columns - left, 30)
    lines = []
    for row in cells:
        first, *more = textwrap.wrap(row[-1], room) or [""]
        lead = "  ".join(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True))
        lines.append(f"{indent}{lead}  {first}".rstrip())
        lines += [" " * left + line for line in more]
    return "\n".join(lines)


@contextlib.contextmanager
def results_only() -> Iterator[None]:
    """While it lasts, stdout belongs to `emit`: what a library prints goes to stderr, so that JSON stays JSON."""
    global _kept_stdout
    _kept_stdout = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _kept_stdout = None


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _Stderr(logging.StreamHandler):
    """Writes to what stderr is when a line is logged, not to what it was at the start."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr  # without the flush of setStream: the old one may be closed
        super().emit(record)


def speak() -> None:
    """Our own log lines go to stderr; other libraries' chatter is turned down before they are imported."""
    logger = logging.getLogger("pairtune")
    if not logger.handlers:
        handler = _Stderr()
        handler.setFormatter(_Redacting("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which peft imports, and which tells of missing kernels
    quiet = {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "DATASETS_VERBOSITY": "error",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not sys.stderr.isatty():
        quiet["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
