"""How many positions a base makes of an image or a recording, and whether it takes what its processor makes at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pairtune.errors import FormatError, InputError
from pairtune.pair.modality import TEXT
from pairtune.pair.shared import collect_hidden

if TYPE_CHECKING:
    from pairtune.pair.base import Base


@torch.inference_mode()
def count_positions(base: Base) -> None:
    """Run one input, and tell the base's processor how many positions it has.

    Raises `InputError` for a model without transformer blocks, `FormatError` where its processor does not fit it.
    """
    if base.modality is TEXT:
        return
    if not base.blocks:
        kind = base.model.config.model_type
        raise InputError(f"{base.source}: {kind} has no transformer blocks; take a vision transformer")
    batch = examples(base, 1)
    with collect_hidden([module for _, module in base.blocks], [0]) as found:
        try:
            base.model(**{base.modality.key: batch[base.modality.key]})
        except (RuntimeError, ValueError) as error:
            shape = list(batch[base.modality.key].shape[1:])
            raise FormatError(
                f"{base.source}: its processor makes {base.modality.many} of the shape {shape}, which the model does "
                f"not take ({str(error).splitlines()[0]})"
            ) from None
    if found[0].ndim != 3:
        raise InputError(f"{base.source}: its blocks hand on {list(found[0].shape)}, expected [rows, positions, d]")
    base.tokenizer.positions = found[0].shape[1]


def examples(base: Base, count: int) -> dict[str, torch.Tensor]:
    """A batch of inputs that are noise, the same in every run, for checks that need any input at all."""
    seen = torch.stack([torch.from_numpy(base.tokenizer.example(i)) for i in range(count)])
    mask = torch.ones(count, base.tokenizer.positions, dtype=torch.long)
    return {base.modality.key: seen.to(base.device, base.dtype), "attention_mask": mask.to(base.device)}
