"""What the corpus readers share: reading packed lines, stripping markup, and what no line may contain."""

from __future__ import annotations

import gzip
import html
import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

EXPLICIT = re.compile(
    r"sex|porn|penis|vagina|fuck|shit|bitch|cunt|nigg|whore|slut|rape|horny|boob|naked|nude|fag|"
    r"masturb|orgasm|dick|cock|tits|\bass\b|hitler|nazi|kill (you|him|her|my)",
    re.IGNORECASE,
)
PERSONAL = re.compile(r"@|https?:|www\.|\d{4}|\d{3}.\d{4}")  # addresses, links, telephone numbers
QUESTION = re.compile(
    r"(who|what|when|where|why|how|which|whose|do|does|did|is|are|am|was|were|can|could|will|would|"
    r"should|have|has|had|may|shall)\b"
)


def read_jsonl(path: Path) -> Iterator[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def group_lines(lines: Iterable[str], size: int, seed: int = 0) -> Iterator[str]:
    """Shuffle short lines and join `size` of them, so that one document is not one sentence."""
    kept = sorted(set(lines))
    random.Random(seed).shuffle(kept)
    for i in range(0, len(kept), size):
        yield "\n".join(kept[i : i + size])


def strip_markup(text: str) -> str:
    """Paragraphs of an HTML, Mallard or DocBook page as plain lines."""
    text = re.sub(r"(?s)<(script|style|head|pre|code|info|nav|screen|programlisting)\b.*?</\1>", " ", text)
    blocks = r"p|li|h\d|div|title|item|td|tr|br|dd|dt|section|para|page|note|blockquote"
    text = re.sub(rf"(?i)</?({blocks})\b[^>]*>", "\n", text)
    text = html.unescape(re.sub(r"(?s)<!--.*?-->|<[^>]+>", "", text.replace("\r", "")))
    text = re.sub(r"[ \t]*\n[ \t]*\n+[ \t]*", "\x00", text)
    lines = (" ".join(p.split()) for p in text.split("\x00"))
    return "\n".join(p for p in lines if p.count(" ") >= 3)


def read_pages(root: Path, *patterns: str, least: int = 200) -> Iterator[str]:
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            text = strip_markup(path.read_text(encoding="utf-8", errors="ignore"))
            if len(text) >= least:
                yield text
