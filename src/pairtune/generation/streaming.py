"""What is written, piece by piece, while it is written; a text at which writing stops is never shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import TextStreamer


class Pieces(TextStreamer):
    """transformers' streamer, with its pieces handed on.

    Args:
        stop: as many characters are held back as one of these may still need to appear whole.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], show: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._stop, self._show = stop, show
        self._held, self._over = "", False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Hand on what is sure to belong to the result."""
        self._held += "" if self._over else text
        places = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if places:
            self._held, self._over = self._held[: min(places)], True
        keep = 0 if self._over or stream_end else max(map(len, self._stop), default=1) - 1
        ready = self._held[: len(self._held) - keep]
        self._held = self._held[len(ready) :]
        if ready:
            self._show(ready)
