"""A progress bar on stderr with the time left; where stderr is no terminal, a line of the log now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from typing import Any

from transformers import TrainerCallback

log = logging.getLogger("pairtune")
RECENT = 10  # lines of the log by which the time left is estimated


class Progress(TrainerCallback):
    """Step, loss, learning rate and time left. Nothing goes to stdout."""

    def __init__(self, title: str = "tune"):
        self._title = title
        self._bar: Any = None
        self._seen: deque[tuple[float, int]] = deque(maxlen=RECENT)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._seen.clear()
        self._seen.append((time.monotonic(), state.global_step))
        if state.is_world_process_zero and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self._title, file=sys.stderr)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        shown = {
            k: v for k, v in (logs or {}).items() if isinstance(v, float) and not k.startswith(("train_", "total_"))
        }
        shown.pop("epoch", None)
        if not state.is_world_process_zero or not shown:
            return
        text = "  ".join(f"{name} {_short(value)}" for name, value in shown.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            return
        step, left = state.global_step, self._left(state.global_step, state.max_steps)
        log.info("%s: step %d of %d, %s left  %s", self._title, step, state.max_steps, left, text)

    def _left(self, step: int, last: int) -> str:
        """Time left at the speed of the last few lines: what else runs on a machine comes and goes."""
        now, (then, first) = time.monotonic(), self._seen[0]
        self._seen.append((now, step))
        return duration((now - then) / max(step - first, 1) * (last - step))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def duration(seconds: float) -> str:
    """`12 s`, `3 min 20 s`, `2 h 5 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours = seconds // 60, seconds // 3600
    return f"{minutes} min {seconds % 60} s" if hours == 0 else f"{hours} h {minutes % 60} min"


def _short(value: float) -> str:
    return f"{value:.4g}"
