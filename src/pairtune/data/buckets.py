"""Batches of rows of similar length, under a budget of tokens: evaluation without padding to the longest of a split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pairtune.errors import InputError

if TYPE_CHECKING:
    import torch

WRITING = 2048  # tokens of a batch that is written to: every step reads all weights for a token a row


def tokens_a_batch(device: torch.device) -> int:
    """How many tokens of a batch without gradients run fastest, padding included.

    On a processor, as many as have their activations in its cache; an accelerator wants work for all of its units.
    """
    return 512 if device.type == "cpu" else 8192


def batches(lengths: Sequence[int], tokens: int, rows: int | None = None) -> tuple[list[list[int]], list[int]]:
    """Cut rows, sorted by length, into batches of at most `tokens` tokens, padding included.

    The longest come first, so that a batch that does not fit into memory is the first one. A row that is longer than
    the budget is a batch of its own.

    Args:
        lengths: tokens of each row.
        tokens: the most tokens of a batch, padding included; at least 1.
        rows: the most rows of a batch; None: any number.

    Returns: the row numbers by batch, and the order that undoes the sorting: with results of all batches one behind
    another in `flat`, `[flat[i] for i in order]` stands in the rows' own order.
    """
    if tokens < 1 or (rows is not None and rows < 1):
        raise InputError(f"a batch needs room for a token and a row, found tokens={tokens}, rows={rows}")
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        last = found[-1] if found else []
        fits = last and (len(last) + 1) * lengths[last[0]] <= tokens and (rows is None or len(last) < rows)
        if fits:
            last.append(i)
        else:
            found.append([i])
    order = [0] * len(lengths)
    for place, i in enumerate(i for batch in found for i in batch):
        order[i] = place
    return found, order
