"""A split as features, row by row as they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from pairtune.data.forms import RowError
from pairtune.data.split import Split

if TYPE_CHECKING:
    from pairtune.data.encode import Encoder, Features

_AT_ONCE = 1000  # rows that are tokenised in one call
KEPT_BYTES = 512 << 20  # of decoded images or sound that stay in memory, a split


class Encoded(Sequence):
    """The features of a split's rows, tokenised when asked for; a torch data set."""

    def __init__(self, split: Split, encoder: Encoder, text_only: bool = False):
        self.rows, self.encoder, self.text_only = split, encoder, text_only
        self._kept: dict[int, Features] = {}
        self._room = KEPT_BYTES

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Features:  # type: ignore[override]
        return self.take([range(len(self))[i]])[0]

    def take(self, indices: Sequence[int]) -> list[Features]:
        """Several rows, tokenised together. Raises `DataError` naming file and line of a row that does not fit.

        Images and sound are decoded once and kept, as far as there is room.
        """
        if self.encoder.processor is None:
            return self._encode(indices)
        wanted = list(dict.fromkeys(i for i in indices if i not in self._kept))
        found = dict(zip(wanted, self._encode(wanted) if wanted else (), strict=True))
        key = self.encoder.processor.modality.key
        for i, features in found.items():
            if self._room >= features[key].nbytes:
                self._kept[i] = features
                self._room -= features[key].nbytes
        return [dict(self._kept.get(i) or found[i]) for i in indices]

    def _encode(self, indices: Sequence[int]) -> list[Features]:
        try:
            return self.encoder.many([self.rows[i] for i in indices], indices, text_only=self.text_only)
        except RowError as error:
            raise self.rows.error(indices[error.position], error.message) from None

    __getitems__ = take  # what torch's DataLoader calls for a batch

    @cached_property
    def _survey(self) -> tuple[list[int], list[int]]:
        if self.encoder.processor is not None:  # all alike; nothing is decoded to know it
            return [self.encoder.processor.positions] * len(self), []
        lengths: list[int] = []
        cut: list[int] = []
        for start in range(0, len(self), _AT_ONCE):
            for features in self.take(range(start, min(start + _AT_ONCE, len(self)))):
                if features.get("cut"):
                    cut.append(len(lengths))
                lengths.append(len(features["input_ids"]))
        return lengths, cut

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row; every text is encoded once for it."""
        return self._survey[0]

    @property
    def cut(self) -> list[int]:
        """The rows that were longer than `max_length`."""
        return self._survey[1]

    def report(self) -> str | None:
        """One line about the rows that were cut, None where none was."""
        if not self.cut:
            return None
        side = "left" if self.encoder.cuts_left else "right"
        places = "; ".join(self.rows.where(i) for i in self.cut[:3])
        return (
            f"{len(self.cut):,} of {len(self):,} rows are longer than {self.encoder.max_length} tokens and were cut on "
            f"the {side} ({places}{'; ...' if len(self.cut) > 3 else ''})"
        )
