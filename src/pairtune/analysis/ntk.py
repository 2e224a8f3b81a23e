"""Which layers to tune, before tuning: the tangent kernel of each at the base, on rows of a task.

After Rahimi Afzal et al., "Linearization Explains Fine-Tuning in Large Language Models", arXiv 2602.08239: near the
base, tuning a set of layers S follows the kernel K_S = Σ_{l∈S} J_l J_lᵀ, and directions of small eigenvalues are learnt
late or never, so that a small condition number promises fast training. The paper's own rule for choosing layers was not
found; here single layers are ranked by their condition, and sets grow by the layer that lowers it most.

An encoder's outputs are the differences between its classes (at most four random ones), a number, or labels; a
language model's, the mean log-probability of a row's target. Embeddings and heads are no candidates. The head of an
encoder that has none yet is random, and its values enter every kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pairtune.analysis.answers import scorable, spread
from pairtune.analysis.kernel_spectrum import KernelFacts, Step, facts, forward_selection
from pairtune.analysis.layer_paths import layer_groups
from pairtune.analysis.linearity import Linearity, linearity
from pairtune.analysis.predict import readable
from pairtune.analysis.report import Document, Report
from pairtune.analysis.row_loss import RowLoss
from pairtune.analysis.tangent_kernel import covered, kernels
from pairtune.errors import InputError
from pairtune.objectives.token_nll import next_tokens
from pairtune.pair.pair import evaluating

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.pair.base import Base
    from pairtune.pair.pair import Pair

ROWS = 128
MOST_OUTPUTS = 4


@dataclass(frozen=True)
class LayerKernel:
    """One layer. weights: numbers that tuning it would change. share: of the trace of all layers together."""

    weights: int
    share: float
    facts: KernelFacts


@dataclass(frozen=True)
class NTK(Report):
    """The report.

    Attributes:
        base, task: names. rows: different rows that were read. outputs: outputs a row.
        layers: by name, the best conditioned first. together: all of them.
        chosen: layers in the order of forward selection.
        left_out: kinds of modules in the layers that are not covered. new_head: whether the head is random.
        moved: how linear the pair's own change is; None for a bare base.
    """

    schema: ClassVar[str] = "ntk/1"
    base: str
    task: str
    rows: int
    outputs: int
    layers: dict[str, LayerKernel]
    together: KernelFacts
    chosen: list[Step]
    left_out: list[str] = field(default_factory=list)
    new_head: bool = False
    moved: Linearity | None = None

    def document(self) -> Document:
        from pairtune.analysis.ntk_shown import document

        return document(self)


def ntk(pair: Pair, task: Task, *, rows: int = ROWS, halves: bool = False) -> NTK:
    """Measure the kernels of a pair's base on training rows of a task, and how linear the pair's change is.

    Args:
        pair: with or without a delta. rows: most rows, evenly spread over the training split; rows that are alike count
            once. halves: attention and the rest of each block apart.

    Raises `InputError` for a task without rows that have a target, or a base without blocks.
    """
    if "train" not in task.splits:
        raise InputError(f"{task.name}: there is no train split (splits: {', '.join(task.splits)})")
    split = spread(scorable(task, readable(pair, task, ["train"]).split("train"))[0], rows)
    if len(split) < 2:
        raise InputError(f"{task.name}: its train split has {len(split)} rows with a target, expected at least 2")
    base = pair.base
    with pair.off():
        lossy = RowLoss.of(pair, task, split)
        batches, kept = different(lossy.batches)
        layers = candidates(base, halves)
        outputs = outputs_of(base, task)
        with evaluating(base.model):
            found = kernels(modules_of(base, layers), batches, outputs, base.blocks[0][1])
            with torch.no_grad():
                count = outputs({name: tensor[:1] for name, tensor in batches[0].items()}).shape[1]
        rest = uncovered(base, layers)
    targets = _targets(task, [split[i] for i in kept])
    order = {name: facts(kernel, targets) for name, kernel in found.items()}
    whole = np.sum(list(found.values()), axis=0)
    total = float(np.trace(whole))
    names = sorted(order, key=lambda name: order[name].condition)
    return NTK(
        base=base.source,
        task=task.name,
        rows=len(kept),
        outputs=count,
        layers={
            n: LayerKernel(_weights(base, layers[n]), order[n].trace / total if total else 0.0, order[n]) for n in names
        },
        together=facts(whole, targets),
        chosen=forward_selection(found),
        left_out=rest,
        new_head=bool(base.new_names),
        moved=linearity(pair, batches, outputs) if pair.layers else None,
    )


def candidates(base: Base, halves: bool = False) -> dict[str, list[str]]:
    """Layer → names in memory of its Parameters: the base's blocks, or halves of them."""
    return layer_groups(base.model, list(base.parameters), halves)


def modules_of(base: Base, layers: dict[str, list[str]]) -> dict[str, dict[str, torch.nn.Module]]:
    """Layer → the modules in it that are covered, by name."""
    owners = _owners(base)
    found: dict[str, dict[str, torch.nn.Module]] = {layer: {} for layer in layers}
    for layer, names in layers.items():
        for owner, module in (owners[id(base.parameters[name])] for name in names):
            if covered(module):
                found[layer][owner] = module
    if not any(found.values()):
        raise InputError(f"{base.source}: its blocks hold no linear layer or norm with floating-point weights")
    return {layer: own for layer, own in found.items() if own}


def uncovered(base: Base, layers: dict[str, list[str]]) -> list[str]:
    """Kinds of modules with Parameters in the layers that the kernels do not cover."""
    owners = _owners(base)
    inside = [owners[id(base.parameters[name])][1] for names in layers.values() for name in names]
    return sorted({type(module).__name__ for module in inside if not covered(module)})


def _owners(base: Base) -> dict[int, tuple[str, torch.nn.Module]]:
    """Name and module that hold a Parameter, by its id: an adapter may have moved modules to other names."""
    modules = base.model.named_modules()
    return {id(p): (name, module) for name, module in modules for p in module._parameters.values() if p is not None}


def outputs_of(base: Base, task: Task) -> Callable[[dict[str, Any]], Tensor]:
    """[B, K] of a batch's rows: what the kernels are the gradients of."""
    if base.family != "encoder":
        return lambda batch: _mean_log_prob(base, batch)
    size = len(task.labels) if task.kind in ("classification", "multilabel") else 1
    basis = torch.eye(size, dtype=torch.float64)
    if task.kind == "classification":
        # An orthonormal basis of the differences between classes; the common part of all logits says nothing.
        basis = torch.linalg.svd(basis - 1 / size)[0][:, : size - 1]
    if basis.shape[1] > MOST_OUTPUTS:
        turned = torch.randn(basis.shape[1], MOST_OUTPUTS, generator=torch.Generator().manual_seed(0)).double()
        basis = basis @ torch.linalg.qr(turned)[0]
    chosen = basis.float().to(base.device)
    return lambda batch: _forward(base, batch).float() @ chosen


def _forward(base: Base, batch: dict[str, Any]) -> Tensor:
    from pairtune.pair.outputs import model_inputs

    inputs = model_inputs(batch)
    if base.family == "seq2seq" and "decoder_input_ids" not in inputs:
        model: Any = base.model
        inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
    more = {"use_cache": False} if base.family != "encoder" else {}
    return base.model(**inputs, **more).logits


def _mean_log_prob(base: Base, batch: dict[str, Any]) -> Tensor:
    targets = batch["labels"] if base.family == "seq2seq" else next_tokens(batch["labels"])
    logits = _forward(base, batch)
    scored = targets >= 0
    # Only what is scored goes through the softmax: [scored tokens, V] instead of [B, T, V].
    chosen = logits[scored].float()
    log_p = chosen.gather(-1, targets[scored].unsqueeze(-1)).squeeze(-1) - chosen.logsumexp(-1)
    spread_out = torch.zeros(targets.shape, device=logits.device).masked_scatter(scored, log_p)
    return (spread_out.sum(1) / scored.sum(1).clamp(min=1)).unsqueeze(1)


def different(batches: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[int]]:
    """The batches without rows whose tokens came before, and the numbers of the rows that stay."""
    seen: set[tuple[int, ...]] = set()
    found, numbers, place = [], [], 0
    for batch in batches:
        keep = []
        for i, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True)):
            key = tuple(ids[mask.bool()].tolist())
            if key not in seen:
                seen.add(key)
                keep.append(i)
                numbers.append(place + i)
        place += len(batch["input_ids"])
        if keep:
            found.append({name: tensor[keep] for name, tensor in batch.items()})
    return found, numbers


def _targets(task: Task, rows: list[Any]) -> np.ndarray | None:
    """[n, C] centred one-hot classes, or centred numbers; None for plain text."""
    if task.kind not in ("classification", "regression"):
        return None
    values = [task.target(row) for row in rows]
    table = np.eye(len(task.labels))[np.array(values)] if task.kind == "classification" else np.array(values)[:, None]
    return table - table.mean(0)


def _weights(base: Base, names: list[str]) -> int:
    return sum(base.parameters[name].numel() for name in names)
