"""Give a pair away: as a merged checkpoint or as a PEFT adapter, with its outputs checked before it is kept."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pairtune.errors import InputError, MissingView, PairtuneError
from pairtune.pair import hub
from pairtune.pair.apply import stacked
from pairtune.pair.base import Base
from pairtune.pair.files import write_json
from pairtune.pair.loader import GENERATION_FILE
from pairtune.pair.modality import TEXT
from pairtune.pair.outputs import model_inputs
from pairtune.pair.pair import Pair, evaluating
from pairtune.pair.positions import examples
from pairtune.pair.staging import staged_folder

PROMPTS = (
    "The quick brown fox jumps over the lazy dog.",
    "How do I reset my password?",
    "1, 2, 3, 5, 8, 13",
    "Once upon a time there was a king who had three daughters.",
)
# Largest difference of a logit, as a share of the logits' spread, that the rounding of a stored type explains.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def coarsest(kinds: Iterable[torch.dtype]) -> tuple[torch.dtype, float]:
    """Of the types that tensors are stored in, the coarsest, and how far outputs may be off for it, in their spread.

    One checkpoint may have several: a new head is float32 on a bfloat16 base.
    """
    floating = {kind for kind in kinds if kind.is_floating_point} or {torch.float32}
    shares = {kind: TOLERANCE.get(kind, 5e-2) for kind in floating}
    stored = max(shares, key=shares.__getitem__)
    return stored, shares[stored]


def export_merged(pair: Pair, folder: str | Path, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Write base + delta as a transformers checkpoint and prove that it answers as the pair does.

    Each tensor is computed in float32 and rounded once, to `dtype` or else to the base's stored type. The folder
    appears only when the reloaded model's logits on a few prompts agree. Returns the check's figures.

    Raises `MissingView` where a delta cannot be merged (side networks, most adapters other than LoRA), `InputError` for
    a base in four bits, `PairtuneError` when the outputs disagree.
    """
    for layer in pair.layers:
        if "merge" not in layer.installed.provides:
            name = (layer.record.get("tuner") or {}).get("name", "this kind of")
            raise MissingView(f"a {name} delta cannot be merged into the weights; export it as a pair folder instead")
    if pair.base.quantize:
        raise InputError("the base is loaded in 4 bits, and merging into it would lose the delta; load it unquantised")
    target = Path(folder)
    base = pair.base
    tensors = _merged_tensors(pair, dtype)
    expected = prompt_logits(pair)
    with staged_folder(target) as staging:
        base.model.save_pretrained(staging, state_dict=tensors)
        pair.tokenizer.save_pretrained(staging)
        if pair.generation is not None:
            write_json(staging / GENERATION_FILE, pair.generation)
        found = _reloaded_logits(base, staging)
        difference = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
        spread = max(float(a.std()) for a in expected)
        stored, share = coarsest(tensor.dtype for tensor in tensors.values())
        if difference > share * max(spread, 1e-6):
            raise PairtuneError(
                f"the merged checkpoint's logits differ from the pair's by {difference:.3g} (spread {spread:.3g}); "
                f"nothing was kept{too_coarse(stored)}"
            )
    return {
        "folder": str(target),
        "dtype": str(stored).removeprefix("torch."),
        "largest_logit_difference": difference,
        "logit_spread": spread,
        "prompts": len(PROMPTS),
    }


def export_adapter(pair: Pair, folder: str | Path) -> dict[str, Any]:
    """Write the top delta as a folder that PEFT itself loads. Raises `MissingView` for a delta that is not PEFT's."""
    if len(pair.layers) != 1:
        raise InputError(
            f"a PEFT folder holds one delta on a plain base, this pair has {len(pair.layers)}; export merged"
        )
    installed = pair.top.installed
    if "peft" not in installed.provides:
        raise MissingView("this delta is not a PEFT adapter; export it merged, or tune with lora or peft:<type>")
    with staged_folder(Path(folder)) as staging:
        files = installed.write(staging)
    return {"folder": str(folder), "files": files}


def too_coarse(stored: torch.dtype) -> str:
    """What may be done where a stored type rounds a change away."""
    if stored.itemsize >= 4:
        return ""
    name = str(stored).removeprefix("torch.")
    return f". Rounding to {name} may lose a change as small as this one: try --dtype float32"


def _merged_tensors(pair: Pair, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Every loaded tensor of the variant by its name in memory, in this type or else the base's stored one."""
    base = pair.base
    current: dict[str, Tensor] = {name: p.detach() for name, p in base.parameters.items()}
    current |= stacked(base, [layer.delta() for layer in pair.layers])
    stored = {name: dtype or _stored_dtype(base, name) for name in current}
    merged = {name: tensor.to(stored[name] or tensor.dtype).contiguous() for name, tensor in current.items()}
    saved = base.model.state_dict()
    buffers = {n: b for n, b in base.model.named_buffers() if n in saved and n not in merged}
    tied = {name: merged[source] for name, source in base.names.tied.items() if source in merged}
    if base.view == "masked":  # its output matrix stays, so that nothing in what is written counts as tied
        tied = {name: tensor.clone() for name, tensor in tied.items()}
    return merged | tied | buffers


def _stored_dtype(base: Base, memory: str) -> torch.dtype | None:
    if memory in base.new_names:
        return None
    return base.stored(base.names.disk(memory)[0]).dtype


@torch.inference_mode()
def prompt_logits(pair: Pair) -> list[Tensor]:
    """Logits [1, T, V] in float32 of the side that is on, for each of `PROMPTS`."""
    with evaluating(pair.model):
        if pair.base.modality is not TEXT:
            return _seen(pair.model, pair.base)
        return [_answer(pair.model, pair.base, pair.tokenizer, text) for text in PROMPTS]


@torch.inference_mode()
def _reloaded_logits(base: Base, folder: Path) -> list[Tensor]:
    model, _ = hub.load_model(type(base.model), folder, dtype=base.dtype)
    model.to(base.device).eval()  # type: ignore[arg-type]
    if base.modality is not TEXT:
        return _seen(model, base)
    tokenizer = hub.load_tokenizer(folder)
    return [_answer(model, base, tokenizer, text) for text in PROMPTS]


def _seen(model: torch.nn.Module, base: Base) -> list[Tensor]:
    """What a model says of as many images or recordings of noise."""
    out = model(**model_inputs(examples(base, len(PROMPTS))))
    said: Tensor = out.logits if hasattr(out, "logits") else out.last_hidden_state
    return [said.float().cpu()]


def _answer(model: torch.nn.Module, base: Base, tokenizer: Any, text: str) -> Tensor:
    inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False).to(base.device)
    if base.family == "seq2seq":
        inputs["decoder_input_ids"] = inputs["input_ids"][:, :4]
    out = model(**inputs)
    logits = out.logits if getattr(out, "logits", None) is not None else out.last_hidden_state
    return logits.float().cpu()
