"""Does the written checkpoint answer as the definition says? Outputs compared on a few prompts before it is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor

from pairtune.errors import PairtuneError
from pairtune.merging.engine import compute
from pairtune.pair import hub
from pairtune.pair.base import family_of, reader_of
from pairtune.pair.export import PROMPTS, coarsest, too_coarse
from pairtune.pair.modality import modality_of
from pairtune.pair.names import Names
from pairtune.pair.processor import PROCESSOR_FILE, Processor

if TYPE_CHECKING:
    from pairtune.merging.engine.plan import Step
    from pairtune.merging.engine.run import Job


def check_outputs(job: Job, folder: Path) -> dict[str, Any]:
    """Load what was written, then put in its place what the definition gives in float32, unrounded; compare logits.

    The figures for the card; a reason under "skipped" where there is nothing to ask (no tokenizer or processor, no such
    class) or the model does not fit into memory. Raises `PairtuneError` where the outputs differ by more than the
    rounding to the stored type explains.
    """
    if reason := _too_large(job):
        return {"skipped": reason}
    readers = ("tokenizer_config.json", PROCESSOR_FILE)
    if not (folder / "config.json").exists() or not any((folder / name).exists() for name in readers):
        return {"skipped": "there is no configuration with a tokenizer or processor, so that nothing can be asked"}
    model, tokenizer, family = _load(folder)
    if model is None:
        return {"skipped": "this transformers has no class for it"}
    found = _answers(model, tokenizer, family)
    return _compared(job, model, tokenizer, family, found)


def check_delta(job: Job, file: Path) -> dict[str, Any]:
    """As `check_outputs`, for a delta's file on its base."""
    from pairtune.pair.apply import install_delta
    from pairtune.pair.base import Base
    from pairtune.pair.delta_io import load_delta

    if reason := _too_large(job) or _new_head(job):
        return {"skipped": reason}
    assert job.base is not None
    base = Base.load(_source(job), dtype=torch.float32, device="cpu")
    installed = install_delta(base, load_delta(file, base=base.stored))
    found = _answers(base.model, base.tokenizer, base.family)
    installed.off()
    return _compared(job, base.model, base.tokenizer, base.family, found)


def check_adapter(job: Job, folder: Path) -> dict[str, Any]:
    """As `check_outputs`, for an adapter that PEFT itself loads onto the base."""
    from peft import PeftModel

    if reason := _too_large(job) or _new_head(job):
        return {"skipped": reason}
    assert job.base is not None and job.base.folder is not None
    model, tokenizer, family = _load(job.base.folder)
    if model is None:
        return {"skipped": "this transformers has no class for it"}
    wrapped = PeftModel.from_pretrained(model, str(folder)).eval()
    found = _answers(wrapped, tokenizer, family)
    model, _, _ = _load(job.base.folder)
    return _compared(job, model, tokenizer, family, found)


def _compared(job: Job, model: Any, tokenizer: Any, family: str, found: list[Tensor]) -> dict[str, Any]:
    """Give `model` the definition's tensors and compare its answers with those found."""
    _put(model, job.steps)
    expected = _answers(model, tokenizer, family)
    difference = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    spread = max(float(answer.std()) for answer in expected)
    stored, share = coarsest(step.dtype for step in job.steps)
    if not difference <= share * max(spread, 1e-6):
        raise PairtuneError(
            f"the written model's outputs differ from those of the definition by {difference:.3g} (their spread is "
            f"{spread:.3g}); nothing was kept{too_coarse(stored)}"
        )
    return {"largest_difference": difference, "spread": spread, "prompts": len(PROMPTS)}


def _too_large(job: Job) -> str | None:
    needed = 2 * sum(4 * torch.Size(step.shape).numel() for step in job.steps)
    if needed > 0.6 * psutil.virtual_memory().available:
        return f"the model in float32 and its tensors need {needed / 1e9:.1f} GB of memory"
    return None


def _new_head(job: Job) -> str | None:
    assert job.base is not None
    new = any(step.name not in job.base.names for step in job.steps)
    return "the deltas bring a new head, which the base cannot be asked with" if new else None


def _source(job: Job) -> str:
    assert job.base is not None
    return job.base.label if job.base.label.startswith("zoo:") else str(job.base.folder)


def _load(folder: Path) -> tuple[Any, Any, str]:
    """The model in float32 (None where transformers lacks its class), its tokenizer or processor, and the family."""
    import transformers

    config = hub.load_config(folder)
    name = next(iter(config.architectures or ()), None)
    cls = transformers.AutoModel if name is None else getattr(transformers, name, None)
    if cls is None:
        return None, None, ""
    model, _ = hub.load_model(cls, folder, dtype=torch.float32)
    return model.eval(), reader_of(folder, config, modality_of(config)), family_of(config)


@torch.no_grad()
def _put(model: Any, steps: Iterable[Step]) -> None:
    """Give the model the tensors of the definition, one tensor in memory at a time."""
    known = {step.name: step for step in steps}
    names = Names(model, known)
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    groups: dict[str, list[str]] = {}
    for name in known:
        if (memory := names.memory(name)) is not None:
            groups.setdefault(memory, []).append(name)
    for group in groups.values():
        for memory, tensor in names.to_memory({name: _exact(known[name]) for name in group}).items():
            own[names.tied.get(memory, memory)].copy_(tensor)


def _exact(step: Step) -> Tensor:
    return compute.whole(replace(step, dtype=torch.float32) if step.dtype.is_floating_point else step)


@torch.inference_mode()
def _answers(model: Any, tokenizer: Any, family: str) -> list[Tensor]:
    if isinstance(tokenizer, Processor):  # as many images or recordings of noise
        seen = torch.stack([torch.from_numpy(tokenizer.example(i)) for i in range(len(PROMPTS))])
        return [_said(model(**{tokenizer.modality.key: seen}))]
    found = []
    for text in PROMPTS:
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        if family == "seq2seq":
            inputs["decoder_input_ids"] = inputs["input_ids"][:, :4]
        found.append(_said(model(**inputs)))
    return found


def _said(out: Any) -> Tensor:
    return out.logits if getattr(out, "logits", None) is not None else out.last_hidden_state
