"""A merge written as a LoRA that PEFT loads: exactly where the result is low-rank, else the nearest of a rank."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pairtune.errors import DeltaMismatch, InputError
from pairtune.merging.engine import compute
from pairtune.merging.engine.plan import Step
from pairtune.merging.engine.run import Job
from pairtune.merging.inputs import adapter
from pairtune.merging.inputs.compare import config_of
from pairtune.merging.inputs.sources import Source
from pairtune.merging.outputs import beside
from pairtune.merging.outputs.changes import change_of
from pairtune.merging.outputs.low_rank import compact_sum, is_own, truncated
from pairtune.pair.card import library_versions
from pairtune.pair.files import write_json, write_safetensors
from pairtune.pair.hub import ADAPTER_FILE
from pairtune.pair.parts import LowRank
from pairtune.pair.staging import staged_folder
from pairtune.pair.tensor_names import layer_of

_TASKS = {"ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM", "ForConditionalGeneration": "SEQ_2_SEQ_LM"}


def write_peft(
    job: Job, out: Path, rank: int | None, check: bool, record: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Write the changes of a job's matrices as a LoRA; the record has the error of each layer where there is one.

    Matrices of layers get factors; new heads are stored whole. Changes of vectors (norms, biases) and of the embeddings
    have no place in a LoRA and count as lost. Raises `DeltaMismatch` where the result is not low-rank and no rank is
    given, `InputError` where there is no base.
    """
    if job.base is None:
        raise InputError("--to peft: an adapter stands on a base; give it with --base")
    if rank is not None and rank < 1:
        raise InputError(f"rank: expected 1 or more, found {rank}")
    factors: dict[str, LowRank] = {}
    whole: dict[str, Tensor] = {}
    errors: dict[str, list[tuple[float, float]]] = {}
    for step in job.steps:
        if step.name not in job.base.names:
            whole[step.name] = compute.whole(step)
        elif not is_own(step, job.base):
            part, lost, total = _factors(step, job.base, rank)
            errors.setdefault(layer_of(step.name), []).append((lost, total))
            if part is not None:
                factors[step.name.removesuffix(".weight")] = part
    if not factors:
        raise DeltaMismatch("the result changes no matrix of a layer, so that no LoRA can hold it; take --to delta")
    tensors = {f"base_model.model.{name}": tensor for name, tensor in whole.items()}
    for module, part in factors.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = part.A.contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = (part.B * part.scale).contiguous()
    figures = {"tensors": len(factors), "layers": _relative(errors), "rank": rank, "check": None}
    with staged_folder(out) as folder:
        write_safetensors(folder / adapter.WEIGHTS, tensors, {"format": "pt"})
        write_json(folder / ADAPTER_FILE, _config(job, {name: part.rank for name, part in factors.items()}))
        if check and not any(error > 0 for error in figures["layers"].values()):
            from pairtune.merging.outputs.check import check_adapter

            figures["check"] = check_adapter(job, folder)
        made = record(figures)
        write_json(folder / beside.CARD_FILE, made)
        (folder / "README.md").write_text(beside.readme(made), encoding="utf-8")
    return made


def _factors(step: Step, base: Source, rank: int | None) -> tuple[LowRank | None, float, float]:
    """The factors of a step's change, the norm of what is lost and of the change; no factors where none can be."""
    found = compact_sum(step)
    part = found if isinstance(found, LowRank) else None
    if part is not None and (rank is None or part.rank <= rank):
        return part, 0.0, part.norm()
    change = part if part is not None else change_of(step, base)
    if isinstance(change, LowRank) or (change.ndim == 2 and layer_of(step.name) != step.name.rpartition(".")[0]):
        if rank is None:
            raise DeltaMismatch(
                f"{step.name}: the result is not low-rank; give the rank of the nearest LoRA (--rank 16), or take "
                "--to delta or --to merged"
            )
        return truncated(change, rank)
    norm = float(change.double().norm())
    return None, norm, norm


def _relative(errors: Mapping[str, list[tuple[float, float]]]) -> dict[str, float]:
    """By layer, the norm of what is lost as a share of that of the change."""
    found = {}
    for layer, pairs in errors.items():
        total = math.hypot(*(one for _, one in pairs))
        found[layer] = math.hypot(*(lost for lost, _ in pairs)) / total if total else 0.0
    return found


def _config(job: Job, ranks: Mapping[str, int]) -> dict[str, Any]:
    """PEFT's configuration of a LoRA with these ranks by module; every scale is 1."""
    assert job.base is not None
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: rank for name, rank in ranks.items() if rank != usual}
    classes = " ".join(config_of(job.base).get("architectures") or [])
    heads = [step.name for step in job.steps if step.name not in job.base.names]
    return {
        "peft_type": "LORA",
        "task_type": next((task for ending, task in _TASKS.items() if ending in classes), None),
        "base_model_name_or_path": job.base.label,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "modules_to_save": sorted({name.partition(".")[0] for name in heads}) or None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "peft_version": library_versions().get("peft"),
    }
