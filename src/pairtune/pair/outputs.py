"""What one forward gives, in one shape for every tuner and model family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pairtune.pair.modality import TEXT, modality_in

# What a batch may hold that a model's forward takes; everything else in a batch (row index, label masks, ...) is for
# the objective, the caches and the error messages.
MODEL_KEYS = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "position_ids",
    "decoder_input_ids",
    "decoder_attention_mask",
    "inputs_embeds",
    "features",
)


@dataclass
class Outputs:
    """One forward's result.

    Attributes:
        logits: [B, C] for a labels head, [B, T, V] for a language model; None for a bare encoder.
        views: the logits that the objective must fit, each with its weight. One view of weight 1 ordinarily; a method
            with several heads gives each (and their ensemble) here, and no objective needs to know of it.
        hidden: [B, T, d] of the last layer, when the model returns it.
    """

    logits: Tensor | None
    views: list[tuple[Tensor, float]]
    hidden: Tensor | None = None

    @classmethod
    def of(cls, raw: Any) -> Outputs:
        """From what a module returned: a transformers output, with `.views` where the tuner makes several."""
        logits = getattr(raw, "logits", None)
        views = getattr(raw, "views", None)
        if views is None:
            views = [] if logits is None else [(logits, 1.0)]
        return cls(logits=logits, views=list(views), hidden=getattr(raw, "last_hidden_state", None))


def model_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """The part of a batch that is passed to the model; images and sound are never padded, and need no mask."""
    modality = modality_in(batch)
    if modality is not TEXT:
        return {key: batch[key] for key in (modality.key, "features") if key in batch}
    return {key: batch[key] for key in MODEL_KEYS if key in batch}
