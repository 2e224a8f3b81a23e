"""What a delta does to texts that it was not tuned on: how far it moves them, and whether a direction is what does it.

No concept labels are needed, only ordinary texts. Drift is read in two places: the residual stream behind the last
block (any model), and the next-token distributions (where the base has a language-model head).

The causal check adds c · u to the base's stream behind its middle block, c being how far the delta moves the stream
along u there, and compares what that does to the outputs with what the delta does to them:

    effect(u) = (y(h + c u) − y(h − c u)) / 2        causal = cos(effect(u), y_variant − y_base), over all texts

y: log-probabilities of the token after the text; without a head of the base's own, the stream behind the last block,
averaged over the text and without its part along u, which would agree by itself. Random directions with the same c say
what counts as large.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pairtune.data import columns, sources
from pairtune.data.collate import Collator
from pairtune.errors import InputError
from pairtune.pair.pair import evaluating
from pairtune.pair.views import hidden_states

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

GENERAL = "demo:general"
TEXTS, TOKENS, ROWS = 96, 64, 16  # texts that are read at most, tokens of each, texts at once
RANDOM = 16  # random directions that the causal check compares with


@dataclass(frozen=True)
class Drift:
    """How far a delta moves texts that it was not tuned on.

    Attributes:
        moved: |h_variant − h_base| / |h_base| behind the last block, root mean square over tokens.
        along: the part of that along the directions held (the write side's where both are), in the same unit.
        divergence: KL(base ‖ variant) of the next token, mean over tokens, nats; None without a language-model head.
    """

    moved: float
    along: float
    divergence: float | None


@dataclass(frozen=True)
class Causal:
    """The causal check of one direction.

    Attributes:
        cosine: of its effect on the base with what the delta does; its sign is that of the direction.
        random: |cosine| of random directions, sorted.
    """

    cosine: float
    random: list[float]

    @property
    def holds(self) -> bool:
        """Whether the direction explains more of the delta than any of the random ones."""
        return abs(self.cosine) > self.random[-1]


@dataclass(frozen=True)
class Overlap:
    """Whether a direction is a trivial one of the base's stream.

    Attributes:
        mean: |cos| with the mean activation. massive: share of its squared length on the hundredth of the channels with
            the largest second moment.
    """

    mean: float
    massive: float

    @property
    def trivial(self) -> bool:
        """Mostly the mean, or mostly massive channels."""
        return self.mean > 0.7 or self.massive > 0.5


def read_texts(source: str) -> list[str]:
    """Texts of a file, a folder or `demo:general`, at most 96, spread over it.

    Raises `DataError` and `InputError` for what is not there or holds no plain texts.
    """
    splits = sources.find(source, {}, Path()).splits
    texts: list[str] = []
    for split in splits.values():
        column = "text" if "text" in split.columns else columns.guess_text(columns.profile(split), None)[0][0]
        for i, text in enumerate(split.values(column)):
            if not isinstance(text, str):
                raise split.error(i, f"column {column!r}: expected text, found {type(text).__name__}")
            texts += [text] if text.strip() else []
    if not texts:
        raise InputError(f"{source}: there are no texts in it")
    most = min(TEXTS, len(texts))
    return [texts[i * len(texts) // most] for i in range(most)]


class OffTopic:
    """Texts as one base reads them: batches, in order."""

    def __init__(self, pair: Pair, texts: list[str]):
        encoded = pair.base.tokenizer(texts, truncation=True, max_length=TOKENS)["input_ids"]
        collate = Collator(pair.base.tokenizer, pair.base.family)
        rows = [{"input_ids": ids} for ids in encoded if len(ids) > 1]
        self.batches: list[dict[str, Tensor]] = []
        for start in range(0, len(rows), ROWS):
            batch = collate(rows[start : start + ROWS])
            self.batches.append({name: tensor.to(pair.base.device) for name, tensor in batch.items()})

    @torch.inference_mode()
    def drift(self, pair: Pair, directions: Tensor) -> Drift:
        """What the pair's delta does, and how much of that along directions [d, k]."""
        moved = along = size = divergence = 0.0
        tokens = 0
        for batch in self.batches:
            mask = batch["attention_mask"].bool()
            with pair.off():
                before = hidden_states(pair, batch, [-1])[-1][mask].double()
                said = _log_probs(pair, batch)
            change = hidden_states(pair, batch, [-1])[-1][mask].double() - before
            moved += float(change.square().sum())
            along += float((change @ directions.double()).square().sum())
            size += float(before.square().sum())
            if said is not None:
                now = _log_probs(pair, batch)
                assert now is not None
                divergence += float((said.exp() * (said - now)).sum(-1)[mask].double().sum())
            tokens += int(mask.sum())
        kl = divergence / tokens if pair.base.view == "tokens" else None
        return Drift(math.sqrt(moved / size), math.sqrt(along / size), kl)

    @torch.inference_mode()
    def displacement(self, pair: Pair, directions: Tensor) -> Tensor:
        """[blocks, k] mean of (h_variant − h_base) · u over tokens, behind every block."""
        layers = list(range(1, len(pair.base.blocks) + 1))
        total, tokens = torch.zeros(len(layers), directions.shape[1], dtype=torch.float64), 0
        for batch in self.batches:
            mask = batch["attention_mask"].bool()
            with pair.off():
                before = hidden_states(pair, batch, layers)
            after = hidden_states(pair, batch, layers)
            for i, layer in enumerate(layers):
                total[i] += ((after[layer] - before[layer])[mask].double() @ directions.double()).sum(0).cpu()
            tokens += int(mask.sum())
        return total / tokens

    @torch.inference_mode()
    def overlap(self, pair: Pair, directions: Tensor) -> Overlap:
        """Whether the first of some directions [d, k] is trivial in the base, over all blocks."""
        layers = list(range(1, len(pair.base.blocks) + 1))
        first = directions[:, 0].double()
        cosines, shares = [], []
        found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        with pair.off():
            for batch in self.batches:
                mask = batch["attention_mask"].bool()
                for layer, hidden in hidden_states(pair, batch, layers).items():
                    found[layer].append(hidden[mask].double())
        for parts in found.values():
            hidden = torch.cat(parts)
            mean = hidden.mean(0)
            cosines.append(abs(float(mean @ first / mean.norm())))
            top = hidden.square().mean(0).topk(max(1, round(0.01 * len(first)))).indices
            shares.append(float(first[top].square().sum()))
        return Overlap(sum(cosines) / len(cosines), sum(shares) / len(shares))

    @torch.inference_mode()
    def causal(self, pair: Pair, directions: Tensor) -> Causal:
        """The causal check of the first of some directions [d, k]."""
        middle = (len(pair.base.blocks) - 1) // 2
        first = directions[:, 0]
        size = float(self.displacement(pair, directions)[middle, 0])
        generator = torch.Generator().manual_seed(0)
        others = torch.randn(len(first), RANDOM, generator=generator).to(first)
        with pair.off():
            before = self._answers(pair)
        change = self._answers(pair) - before
        cosines = [self._cosine(pair, middle, size, u / u.norm(), change) for u in (first, *others.T)]
        return Causal(cosines[0], sorted(abs(one) for one in cosines[1:]))

    def _cosine(self, pair: Pair, block: int, size: float, direction: Tensor, change: Tensor) -> float:
        answers = []
        for step in (size, -size):
            with pair.off(), _added(pair, block, step * direction):
                answers.append(self._answers(pair))
        effect = (answers[0] - answers[1]) / 2
        if pair.base.view != "tokens":  # what was added is still in the stream; only what became of it counts
            effect, change = (x - (x @ direction.double())[:, None] * direction.double() for x in (effect, change))
        lengths = float(effect.norm() * change.norm())
        return float((effect * change).sum()) / lengths if lengths else 0.0

    def _answers(self, pair: Pair) -> Tensor:
        """[texts, ...] float64: log-probabilities of the token after each text, or the averaged last stream."""
        found = []
        for batch in self.batches:
            mask = batch["attention_mask"]
            said = _log_probs(pair, batch)
            if said is not None:
                found.append(said[torch.arange(len(mask)), mask.sum(-1) - 1].double())
            else:
                hidden = hidden_states(pair, batch, [-1])[-1].double() * mask[..., None]
                found.append(hidden.sum(1) / mask.sum(-1, keepdim=True))
        return torch.cat(found)


def _log_probs(pair: Pair, batch: dict[str, Any]) -> Tensor | None:
    """[B, T, V] of the side that is on; None where the base has no language-model head."""
    if pair.base.view != "tokens":
        return None
    with evaluating(pair.model):
        logits = pair.forward(batch).logits
    assert logits is not None
    return logits.float().log_softmax(-1)


@contextlib.contextmanager
def _added(pair: Pair, block: int, vector: Tensor) -> Iterator[None]:
    """While inside, a vector [d] is added to the stream behind a block."""

    def add(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + vector.to(output[0].dtype), *output[1:])
        return output + vector.to(output.dtype)

    handle = pair.base.blocks[block][1].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def ablated(pair: Pair, directions: Tensor) -> Iterator[None]:
    """While inside, nothing is left along directions [d, k] behind any block: ablation at inference, a baseline."""

    def cut(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        basis = directions.to(hidden.dtype)
        hidden = hidden - (hidden @ basis) @ basis.T
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handles = [block.register_forward_hook(cut) for _, block in pair.base.blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
