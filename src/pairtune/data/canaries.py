"""Canaries: texts that stand nowhere else, put into training data a known number of times, to see what is remembered.

After section 4.7 of the PaLM 2 report, arXiv 2305.10403. Both kinds are made of real documents of the training split:

    interleave   fifty tokens of one document, fifty of another, and so on by turns, each in its order
    shuffle      all tokens of one document in a drawn order

Departures: documents need 100 tokens rather than 500, as many small sets have none so long; a canary is at most as long
as what the model reads; how many are made for each number of repeats is ours (the report's counts by bin are not in the
copy that was read). As many canaries again are never put in: whoever writes them on has not learnt them here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairtune.data.parsed import parsed
from pairtune.data.split import Split
from pairtune.data.tokens import Tokens
from pairtune.errors import DataError

KINDS = ("interleave", "shuffle")
REPEATS = (0, 1, 2, 4, 8, 16, 32)  # 0: never put in
BATCH = 50  # tokens of one document at a time
LEAST = 100  # tokens of a document
PROMPT, SUFFIX = 60, 30  # the prompt reaches into the second document, so that what follows it tells the canary


@dataclass(frozen=True)
class Canary:
    """One canary. `repeats`: how often it stands in the training data; 0 for those that are held back."""

    text: str
    kind: str
    repeats: int


def make_canaries(texts: Sequence[str], tokens: Tokens, most: int, each: int = 10, seed: int = 0) -> list[Canary]:
    """So many canaries of each kind for each number of repeats.

    Args:
        texts: documents of the training split.
        most: the most tokens that the model reads.

    Raises `DataError` where fewer than four documents are long enough, or there are too few for so many canaries.
    """
    room = most - len(tokens.start) - 1
    every = [ids for ids in tokens.plain(texts) if len(ids) >= LEAST]
    if len(every) < 4 or room < LEAST:
        have = f"the model reads {most}" if room < LEAST else f"{len(every)} of {len(texts)} texts have that many"
        raise DataError(f"canaries are made of four documents of {LEAST} tokens or more; {have}")
    draw, found = random.Random(seed), dict[str, Canary]()
    # Those that are never put in share no document with the others, else these would teach how they go on.
    draw.shuffle(every)
    apart = max(2, len(every) // 5)
    for kind in KINDS:
        for repeats in REPEATS:
            documents = every[apart:] if repeats else every[:apart]
            wanted = len(found) + each
            for _ in range(20 * each):  # of few documents the same canary may be drawn again
                ids = _interleaved(*draw.sample(documents, 2)) if kind == "interleave" else _shuffled(documents, draw)
                text = _text(tokens, ids[:room])
                if text is not None and text not in found:
                    found[text] = Canary(text, kind, repeats)
                if len(found) == wanted:
                    break
            else:
                raise DataError(f"{len(documents)} documents of {LEAST} tokens are too few for {each} canaries a kind")
    return list(found.values())


def with_canaries(rows: Sequence[Mapping[str, Any]], column: str, canaries: Sequence[Canary], seed: int = 0) -> list:
    """The rows and every canary as often as it says, in a drawn order."""
    made: list[Mapping[str, Any]] = [{column: one.text} for one in canaries for _ in range(one.repeats)]
    found = [*rows, *made]
    random.Random(seed).shuffle(found)
    return found


def read_canaries(path: str | Path) -> list[Canary]:
    """The canaries of a file that was written beside the data. Raises as `Split.read`, and for rows that are none."""
    split = Split.read(Path(path).expanduser())
    for column in ("text", "kind", "repeats"):
        split.require(column)
    return parsed(split, lambda row, _: _canary(row))


def _interleaved(one: Sequence[int], other: Sequence[int]) -> list[int]:
    least = min(len(one), len(other)) // BATCH * BATCH
    starts = range(0, least, BATCH)
    return [token for start in starts for ids in (one, other) for token in ids[start : start + BATCH]]


def _shuffled(documents: Sequence[Sequence[int]], draw: random.Random) -> list[int]:
    ids = list(draw.choice(documents))
    draw.shuffle(ids)
    return ids


def _text(tokens: Tokens, ids: list[int]) -> str | None:
    """The tokens as text; None where the text is too short as it will be read again (merges across the seams)."""
    text = tokens.tokenizer.decode(ids, skip_special_tokens=True).strip()
    return text if len(tokens.plain([text])[0]) >= PROMPT + SUFFIX else None


def _canary(row: Mapping[str, Any]) -> Canary:
    text, kind, repeats = row["text"], row["kind"], row["repeats"]
    if not isinstance(text, str) or kind not in KINDS:
        raise ValueError(f"expected a text and a kind of {' or '.join(KINDS)}, found {kind!r}")
    if isinstance(repeats, bool) or not str(repeats).isdigit():
        raise ValueError(f"repeats: expected a number of 0 or more, found {repeats!r}")
    return Canary(text, kind, int(repeats))
