"""Several short documents in one row of a causal language model, none seeing another.

Documents are told apart by their positions alone: each starts again at 0, and the batch has no attention mask.
transformers then finds the documents in the positions and masks attention between them (`masking_utils.
find_packed_sequence_indices`), for every attention implementation and for sliding windows, which a ready-made
four-dimensional mask would switch off. It does so only where there is no key-value cache: a packed batch must be run
with `use_cache=False`, in training too, else each document sees those before it. Not every architecture passes its
positions on, so that `prove_apart` compares packed with single documents on the model itself.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pairtune.data.encoded import Encoded
from pairtune.data.forms import IGNORED
from pairtune.errors import InputError

if TYPE_CHECKING:
    from torch import nn

TOLERANCE = 1e-4


def pack(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Which documents share a row: best-fit decreasing, in O(n log n).

    The longest documents are placed first, each into the row that it fills best. Returns the documents' indices by row;
    each occurs once, no row is longer than `max_length`. Raises `InputError` for a document that is.
    """
    rows: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (free tokens, row), ascending
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[i] > max_length:
            raise InputError(f"document {i} has {lengths[i]} tokens, more than a row of {max_length}")
        at = bisect_left(space, (lengths[i], -1))
        if at == len(space):
            rows.append([i])
            insort(space, (max_length - lengths[i], len(rows) - 1))
        else:
            free, row = space.pop(at)
            rows[row].append(i)
            insort(space, (free - lengths[i], row))
    return rows


class Packed(Sequence):
    """Rows of packed documents from an encoded split, as features; a torch data set.

    Features: `input_ids`; `position_ids`, starting at 0 in each document; `labels`, the first token of each document
    being −100 (nothing of its own document predicts it); `target`; `index`, the row number of the first document.
    """

    def __init__(self, encoded: Encoded, max_length: int | None = None):
        if encoded.encoder.family != "causal" or encoded.encoder.view != "tokens":
            raise InputError("only texts for a causal language model can be packed")
        self.encoded = encoded
        self.rows = pack(encoded.lengths, max_length or encoded.encoder.max_length)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override]
        return join(self.encoded.take(self.rows[i]))

    def report(self) -> str:
        """One line: rows, documents, and the share of the rows' tokens that are real."""
        total, width = sum(self.encoded.lengths), max(sum(self.encoded.lengths[i] for i in row) for row in self.rows)
        return (
            f"{len(self.encoded):,} documents packed into {len(self):,} rows of at most {width:,} tokens, "
            f"{100 * total / (width * len(self)):.1f} % of them filled"
        )


def join(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The features of one packed row from those of its documents."""
    row: dict[str, Any] = {"input_ids": [], "position_ids": [], "labels": [], "target": []}
    for document in documents:
        row["input_ids"] += document["input_ids"]
        row["position_ids"] += range(len(document["input_ids"]))
        row["labels"] += [IGNORED, *document["labels"][1:]]
        row["target"] += document["target"]
    if "index" in documents[0]:
        row["index"] = documents[0]["index"]
    return row


def prove_apart(model: nn.Module) -> float:
    """Largest difference of any logit between two documents packed and alone, on this model without a cache.

    Raises `InputError` where it shows that this architecture lets packed documents see each other.
    """
    import torch

    device = next(model.parameters()).device
    first, second = torch.arange(3, 10, device=device), torch.arange(9, 4, -1, device=device)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            alone = [model(input_ids=ids[None], use_cache=False).logits for ids in (first, second)]
            positions = torch.cat([torch.arange(len(ids), device=device) for ids in (first, second)])
            together = model(
                input_ids=torch.cat([first, second])[None], position_ids=positions[None], use_cache=False
            ).logits
    except TypeError:
        raise InputError(f"{type(model).__name__} takes no positions, so that its rows cannot be packed") from None
    finally:
        for module, mode in modes:
            module.training = mode
    difference = float((torch.cat(alone, dim=1).float() - together.float()).abs().max())
    scale = max(1.0, float(together.float().abs().max()))
    if difference > TOLERANCE * scale * (1 if together.dtype == torch.float32 else 100):
        raise InputError(
            f"{type(model).__name__} lets packed documents see each other (a logit differs by {difference:.2g}); train "
            "without packing"
        )
    return difference
