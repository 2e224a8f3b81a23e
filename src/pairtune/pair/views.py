"""The outputs view and the activations view of a pair: both sides from one function, over one batch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pairtune.errors import InputError, MissingView
from pairtune.pair.logprobs import accepts, token_log_probs
from pairtune.pair.outputs import Outputs
from pairtune.pair.shared import SharedBlocks, collect_hidden

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")
PROOF_TOLERANCE = 1e-5


@dataclass(frozen=True)
class LogRatio:
    """log p(variant) − log p(base) of a batch.

    Attributes:
        variant, base: [B, T] log-probabilities per token (or [B, C] per class), float32.
        mask: [B, T] which of them count (all classes for labels).
        unit: "token" or "label".
    """

    variant: Tensor
    base: Tensor
    mask: Tensor
    unit: str

    @property
    def values(self) -> Tensor:
        """[B, T] the log ratio, 0 where nothing is scored."""
        return torch.where(self.mask, self.variant - self.base, 0.0)

    def sum(self) -> Tensor:
        """[B] over the scored tokens, summed in float64 so that padding cannot move the last digit."""
        return self.values.double().sum(-1).float()

    def count(self) -> Tensor:
        """[B] the number of scored tokens."""
        return self.mask.sum(-1)

    def mean(self) -> Tensor:
        """[B] per scored token; 0 for a text with none."""
        return self.sum() / self.count().clamp(min=1)


@dataclass(frozen=True)
class Activations:
    """Hidden states of both sides. base, variant: layer → [B, T, d]; mask: [B, T] of real positions."""

    base: dict[int, Tensor]
    variant: dict[int, Tensor]
    mask: Tensor


@torch.inference_mode()
def log_ratio(pair: Pair, batch: dict[str, Any]) -> LogRatio:
    """Both sides' log-probabilities of a batch, dropout off, temperature applied by the models' own heads.

    Which tokens count: `batch["scored"]` [B, T] if given, else the labels that are not −100, else every real token that
    has one before it. Blocks below the delta are computed once, after a proof on the first batch.

    Raises `MissingView` where there is neither a language-model head nor a trained head on both sides.
    """
    from pairtune.pair.pair import evaluating

    if "tokens" not in pair.views:
        return _label_ratio(pair, batch)
    inputs = with_positions(pair, batch)
    targets = scored_targets(pair, batch)
    _check_ids(pair, batch)
    inner = pair.base.model
    shared = _shared(pair)
    if shared and not _proven(pair, shared, inputs, targets):
        shared = SharedBlocks([], 0)
    with pair.off(), evaluating(pair.model), shared.capture():
        base = token_log_probs(pair.model, inner, inputs, targets, pair.by_head)
    with evaluating(pair.model), shared.replay():
        variant = token_log_probs(pair.model, inner, inputs, targets, pair.by_head)
    return LogRatio(variant, base, targets >= 0, "token")


@torch.inference_mode()
def log_probs(pair: Pair, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """[B, T] log-probabilities of the side that is on, and which of them count."""
    from pairtune.pair.pair import evaluating

    if "tokens" not in pair.views:
        raise MissingView("log_probs needs a language-model head; this pair has an encoder base")
    inputs = with_positions(pair, batch)
    targets = scored_targets(pair, batch)
    with evaluating(pair.model):
        return token_log_probs(pair.model, pair.base.model, inputs, targets, pair.by_head), targets >= 0


@torch.inference_mode()
def activations(pair: Pair, batch: dict[str, Any], layers: list[int]) -> Activations:
    """Hidden states of base and variant; layer 0 enters the first block, layer l leaves block l, −1 is the last.

    Raises `InputError` for a layer that the model does not have.
    """
    with pair.off():
        base = hidden_states(pair, batch, layers)
    return Activations(base, hidden_states(pair, batch, layers), batch["attention_mask"].bool())


@torch.inference_mode()
def hidden_states(pair: Pair, batch: dict[str, Any], layers: list[int]) -> dict[int, Tensor]:
    """Layer → [B, T, d] of the side that is on."""
    from pairtune.pair.pair import evaluating

    blocks = [module for _, module in pair.base.blocks]
    wanted = [layer if layer >= 0 else len(blocks) + 1 + layer for layer in layers]
    wrong = [layer for layer, index in zip(layers, wanted, strict=True) if not 0 <= index <= len(blocks)]
    if wrong:
        raise InputError(f"layer {wrong[0]}: this model has layers 0 (embeddings) to {len(blocks)}")
    with evaluating(pair.model), collect_hidden(blocks, wanted) as found:
        pair.model(**with_positions(pair, batch))
    return {layer: found[index] for layer, index in zip(layers, wanted, strict=True)}


def with_positions(pair: Pair, batch: dict[str, Any]) -> dict[str, Any]:
    """The model's inputs; a decoder-only model's positions count real tokens whatever the padding side."""
    inputs = pair.inputs(batch)
    if pair.base.family == "causal" and "attention_mask" in inputs:
        inputs.setdefault("position_ids", positions(inputs["attention_mask"]))
    if "position_ids" in inputs and not accepts(pair.base.model, "position_ids"):
        inputs.pop("position_ids")
    return inputs


def positions(attention_mask: Tensor) -> Tensor:
    """[B, T] position ids that count real tokens only, so that the padding side does not matter."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def scored_targets(pair: Pair, batch: dict[str, Any]) -> Tensor:
    """[B, T] the ids to be scored, −100 elsewhere."""
    if pair.base.family == "seq2seq":
        targets = batch["labels"]
    else:
        real = batch["attention_mask"].bool()
        real = real & torch.nn.functional.pad(real[:, :-1], (1, 0), value=False)
        targets = batch["input_ids"].masked_fill(~real, -100)
        if "scored" not in batch and "labels" in batch and batch["labels"].shape == targets.shape:
            targets = targets.masked_fill(batch["labels"] < 0, -100)
    return targets.masked_fill(~batch["scored"].bool(), -100) if "scored" in batch else targets


def _check_ids(pair: Pair, batch: dict[str, Any]) -> None:
    """The base has no row for a token that tuning added."""
    rows = pair.base.vocabulary_rows
    if int(batch["input_ids"].max()) >= rows:
        raise MissingView("a text holds tokens that tuning added; the base has no row for them, so there is no ratio")


def _shared(pair: Pair) -> SharedBlocks:
    first = min(layer.installed.first_changed() for layer in pair.layers) if pair.layers else 0
    return SharedBlocks([module for _, module in pair.base.blocks], first)


def _proven(pair: Pair, shared: SharedBlocks, inputs: dict[str, Any], targets: Tensor) -> bool:
    """Compare the shortcut with the plain pass on two rows, once for a stack; the result is remembered."""
    from pairtune.pair.pair import evaluating

    key = len(pair.layers)
    if key not in pair._trusted:
        few = {k: v[:2] if isinstance(v, Tensor) else v for k, v in inputs.items()}
        inner = pair.base.model
        with evaluating(pair.model):
            plain = token_log_probs(pair.model, inner, few, targets[:2], pair.by_head)
        with pair.off(), evaluating(pair.model), shared.capture():
            token_log_probs(pair.model, inner, few, targets[:2], pair.by_head)
        with evaluating(pair.model), shared.replay():
            quick = token_log_probs(pair.model, inner, few, targets[:2], pair.by_head)
        pair._trusted[key] = bool((plain - quick).abs().max() <= PROOF_TOLERANCE)
        if not pair._trusted[key]:
            log.warning("the blocks below the delta do not give equal results here; both sides are computed in full")
    return pair._trusted[key]


def _label_ratio(pair: Pair, batch: dict[str, Any]) -> LogRatio:
    """The same over classes, for a pair whose base has a trained head."""
    if "labels" not in pair.views:
        raise MissingView("log_ratio needs a head; this pair has a bare encoder: compare activations instead")
    from pairtune.pair.pair import evaluating

    base = _log_softmax(pair.base_outputs(batch))
    with evaluating(pair.model):
        variant = _log_softmax(pair.forward(batch))
    return LogRatio(variant, base, torch.ones_like(variant, dtype=torch.bool), "label")


def _log_softmax(outputs: Outputs) -> Tensor:
    if outputs.logits is None:
        raise MissingView("this model returned no logits")
    return outputs.logits.float().log_softmax(-1)
