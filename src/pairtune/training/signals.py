"""Ctrl-C and SIGTERM end a run after the step that is being computed, with a final checkpoint.

Exit codes: 130 after Ctrl-C (SIGINT), 143 after SIGTERM, as shells report these signals. A second signal ends at once
with what the last checkpoint holds.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

from pairtune.errors import PairtuneError

HEARD = (signal.SIGINT, signal.SIGTERM)


class Stopped(PairtuneError):
    """The run was asked to stop and has kept what it had; `exit_code` is 128 + the signal's number."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


class Signals:
    """While active, the first SIGINT or SIGTERM is remembered in `received`; a second one takes its usual effect.

    In a thread other than the main one nothing can be caught and nothing is changed.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in HEARD:
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()
