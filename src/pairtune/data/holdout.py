"""A part of a split held out, by the hash of the text: deterministic, and equal texts stay on one side."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Sequence

from pairtune.data.media import plain
from pairtune.data.split import Split
from pairtune.errors import DataError

SHARE = 0.1


def hold_out(split: Split, columns: Sequence[str], parts: int, what: str = "texts") -> list[Split]:
    """Cut off `parts` tenths; returns [rest, part, ...], each in the original order.

    The texts are ordered by their hashes; the lowest tenth is the first part, and so on. So rows that are added later
    move few others, and a text that occurs twice is not on both sides. Every part has at least one row.

    Args:
        what: what the rows hold, for messages.

    Raises `DataError` where there are fewer different texts than parts.
    """
    keys = [json.dumps(row, ensure_ascii=False, default=plain) for row in zip(*map(split.values, columns), strict=True)]
    groups: dict[bytes, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(hashlib.sha256(key.encode(errors="replace")).digest(), []).append(i)
    if len(groups) <= parts:
        raise DataError(
            f"{len(groups)} different {what} are too few to hold out {parts} part{'s' if parts > 1 else ''} of them; "
            "give the splits as files of their own",
            ", ".join(split.files),
        )
    ordered = deque(sorted(groups))
    wanted = max(1, round(len(split) * SHARE))
    held: list[Split] = []
    for left in range(parts, 0, -1):
        picked: list[int] = []
        # One group at least stays for each part to come and for the rest.
        while len(picked) < wanted and (not picked or len(ordered) > left):
            picked += groups[ordered.popleft()]
        held.append(split.select(sorted(picked)))
    return [split.select(sorted(i for key in ordered for i in groups[key])), *held]
