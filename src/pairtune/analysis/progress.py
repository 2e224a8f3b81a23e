"""How far a long reading of a pair has come, on stderr: a bar with the time left, or a log line a step."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

log = logging.getLogger("pairtune")


class Steps:
    """Call it with what is done next; it closes the bar when its `with` block ends."""

    def __init__(self, title: str, total: int):
        self._title, self._total, self._done = title, total, -1
        self._start = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            form = "{desc}  {n_fmt}/{total_fmt} |{bar:20}| {elapsed}, {remaining} left"
            self._bar = tqdm(total=total, desc=title, file=sys.stderr, bar_format=form, leave=False)

    def __call__(self, text: str) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.set_description_str(f"{self._title}: {text}", refresh=False)
            self._bar.update(self._done - self._bar.n)
            self._bar.refresh()
        else:
            passed = time.monotonic() - self._start
            log.info("%s: %d of %d, %.0f s: %s", self._title, self._done + 1, self._total, passed, text)

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None):
        if self._bar is not None:
            self._bar.close()
