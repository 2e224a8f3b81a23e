"""A base and the deltas that stand on it, handled as one thing with three views."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pairtune.errors import MissingView, PairtuneError
from pairtune.method import VIEWS
from pairtune.pair.base import Base
from pairtune.pair.installed import Installed
from pairtune.pair.outputs import Outputs, model_inputs

if TYPE_CHECKING:
    from pairtune.pair.card import Card
    from pairtune.pair.delta import Delta
    from pairtune.pair.views import Activations, LogRatio


@dataclass
class Layer:
    """One delta of the stack.

    Attributes:
        installed: the delta on the model.
        delta: makes the delta as an algebraic object; called when asked for.
        record: what made it (tuner, settings, hash, ...), kept in the card.
    """

    installed: Installed
    delta: Callable[[], Delta]
    record: dict[str, Any] = field(default_factory=dict)


class Pair:
    """A base and an ordered stack of deltas, the variant being the base with all of them.

    The stack's bottom comes first. `off()` is the base alone, `reference()` the stack without its top delta (as it
    stood when the current stage began), `at(alpha)` the point base + alpha · delta.
    """

    def __init__(self, base: Base, layers: list[Layer] | None = None, tokenizer=None, card: Card | None = None):
        self.base = base
        self.layers: list[Layer] = []
        self.tokenizer = tokenizer if tokenizer is not None else base.tokenizer
        self.card = card
        self.generation: dict[str, Any] | None = None  # the variant's generation configuration, where it has its own
        self._active = 0
        self._alpha = 1.0
        self._memo: dict[tuple[int, int], tuple[dict, Outputs]] = {}
        self._trusted: dict[int, bool] = {}
        for layer in layers or []:
            self.push(layer)

    @classmethod
    def load(cls, source: str | Path, base: Base | str | None = None, **options: Any) -> Pair:
        """Load a pairtune folder, a PEFT folder or a checkpoint with its base; see `loader.load_pair`."""
        from pairtune.pair import loader

        return loader.load_pair(source, base, **options)

    @classmethod
    def from_checkpoints(cls, base: Base | str, finetuned: str | Path, **options: Any) -> Pair:
        """The pair of a base and a full fine-tuned checkpoint; see `loader.from_checkpoints`."""
        from pairtune.pair import loader

        return loader.from_checkpoints(base, finetuned, **options)

    def save(self, folder: str | Path, card: Card | None = None) -> Card:
        """Write the pair's folder, whole or not at all; see `loader.save_pair`."""
        from pairtune.pair import loader

        self.card = loader.save_pair(self, Path(folder), card)
        return self.card

    # -- the stack ---------------------------------------------------------------------------------------------------

    def push(self, layer: Layer) -> None:
        """Put a delta on top of the stack; it becomes what trains, and the stack below it the reference."""
        if self._active != len(self.layers):
            raise PairtuneError("a delta can only be added while the whole stack is on")
        self.layers.append(layer)
        self._active = len(self.layers)
        layer.installed.model.register_forward_hook(self._watch)

    def pop(self) -> Layer:
        """Take the top delta off again, and return it. Raises `PairtuneError` while a part of the stack is off."""
        if self._active != len(self.layers):
            raise PairtuneError("a delta can only be taken off while the whole stack is on")
        self.top.installed.off()
        self._active -= 1
        return self.layers.pop()

    def swap(self, delta: Delta) -> Layer:
        """Replace the top delta by another weights delta and return the layer that was there.

        Raises `DeltaMismatch` when the new delta does not fit, with the old one still in place.
        """
        from pairtune.pair.apply import install_delta

        old = self.pop()
        try:
            new = Layer(install_delta(self.base, delta, call=self.model), lambda: delta, {"kind": "swapped"})
        except Exception:
            old.installed.on()
            self.layers.append(old)
            self._active = len(self.layers)
            raise
        self.push(new)
        return old

    @property
    def top(self) -> Layer:
        """The delta that trains. Raises `MissingView` on a bare base."""
        if not self.layers:
            raise MissingView("this pair has no delta yet: tune one, or load one")
        return self.layers[-1]

    @property
    def delta(self) -> Delta:
        """The top delta as an algebraic object (named tensors; `+ - *`, norms)."""
        return self.top.delta()

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Names and Parameters of the top delta."""
        return self.top.installed.trainable()

    # -- which side is on --------------------------------------------------------------------------------------------

    @property
    def model(self) -> nn.Module:
        """The module to call for the side that is on now."""
        return self.layers[self._active - 1].installed.model if self._active else self.base.model

    @property
    def by_head(self) -> bool:
        """Whether what the side that is on says is the base's head on hidden states, and no delta moves it behind."""
        return not any("moves_logits" in layer.installed.provides for layer in self.layers[: self._active])

    @contextlib.contextmanager
    def off(self) -> Iterator[Pair]:
        """The base alone, bit for bit, while inside."""
        with self._state(0, 1.0):
            yield self

    @contextlib.contextmanager
    def reference(self) -> Iterator[Pair]:
        """The stack without its top delta while inside."""
        with self._state(len(self.layers) - 1, 1.0):
            yield self

    @contextlib.contextmanager
    def at(self, alpha: float) -> Iterator[Pair]:
        """base + alpha · delta while inside (every delta of the stack scaled).

        Raises `MissingView` where a delta cannot be scaled.
        """
        for layer in self.layers:
            if "scale" not in layer.installed.provides:
                raise MissingView(
                    f"at({alpha}): a {layer.record.get('tuner', 'module')} delta has no fractions of itself"
                )
        with self._state(len(self.layers), alpha):
            yield self

    @contextlib.contextmanager
    def _state(self, active: int, alpha: float) -> Iterator[None]:
        before = (self._active, self._alpha)
        self._set(active, alpha)
        try:
            yield
        finally:
            self._set(*before)

    def _set(self, active: int, alpha: float) -> None:
        if (active, alpha) == (self._active, self._alpha):
            return
        # Top first when leaving, bottom first when entering: each delta restores what it found.
        for layer in reversed(self.layers[: self._active]):
            layer.installed.off()
        for layer in self.layers[:active]:
            layer.installed.on() if alpha == 1.0 else layer.installed.scale(alpha)
        self._active, self._alpha = active, alpha

    def _watch(self, _module: nn.Module, _args: Any, raw: Any) -> None:
        """After a forward with gradients: its backward must find the pair as the forward left it."""
        logits = getattr(raw, "logits", None)
        if not torch.is_grad_enabled() or logits is None or not logits.requires_grad:
            return
        state = (self._active, self._alpha)

        def check(_gradient: Tensor) -> None:
            if (self._active, self._alpha) != state:
                raise PairtuneError("the pair was switched between a forward and its backward; call backward first")

        logits.register_hook(check)

    # -- forwards ----------------------------------------------------------------------------------------------------

    @property
    def views(self) -> frozenset[str]:
        """Which views this pair has: weights and activations always, tokens, labels or masked by its head."""
        head = {self.base.view} if self.base.view else set()
        if self.layers:
            # A delta that serves one of them only has a head of its own (labels on a language model).
            given = set(self.layers[-1].installed.provides & VIEWS)
            head = given if len(given) == 1 else head
        return frozenset({"weights", "activations"} | head)

    def inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What is passed to the model: the batch's model keys, and an encoder-decoder's shifted targets."""
        inputs = model_inputs(batch)
        key = self.base.modality.key
        if key in inputs and inputs[key].is_floating_point():
            inputs[key] = inputs[key].to(self.base.dtype)
        if self._active < len(self.layers):
            inputs.pop("features", None)  # cached for the top delta; the sides below it run on the text
        labels = batch.get("labels")
        if self.base.family == "seq2seq" and "decoder_input_ids" not in inputs:
            if labels is not None and labels.ndim == 2 and not labels.is_floating_point():
                model: Any = self.base.model
                inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=labels)
        return inputs

    def forward(self, batch: dict[str, Any]) -> Outputs:
        """One forward of the side that is on. Training goes through `model` itself, as its wrappers need."""
        return Outputs.of(self.model(**self.inputs(batch)))

    def begin_step(self) -> None:
        """Forget the memoised outputs of the last step's batches."""
        self._memo.clear()

    def base_outputs(self, batch: dict[str, Any]) -> Outputs:
        """The base's outputs, without gradients and dropout, computed once a batch and step.

        Raises `MissingView` where the base has no head of its own to compare with.
        """
        if self.base.new_names:
            raise MissingView(
                "the base has no trained head, so that it has no labels; fit a probe, or compare activations"
            )
        return self._frozen_outputs(batch, 0)

    def reference_outputs(self, batch: dict[str, Any]) -> Outputs:
        """The same for the reference: the stack without its top delta."""
        return self.base_outputs(batch) if len(self.layers) <= 1 else self._frozen_outputs(batch, len(self.layers) - 1)

    def _frozen_outputs(self, batch: dict[str, Any], active: int) -> Outputs:
        key = (id(batch), active)
        if key not in self._memo:
            with torch.no_grad(), self._state(active, 1.0), evaluating(self.model):
                # The batch is kept with its outputs: its id must not be used again while the memo lives.
                self._memo[key] = (batch, self.forward(batch))
        return self._memo[key][1]

    def log_ratio(self, batch: dict[str, Any]) -> LogRatio:
        """log p(variant) − log p(base), per scored token in float32; see `views.log_ratio`."""
        from pairtune.pair import views

        return views.log_ratio(self, batch)

    def activations(self, batch: dict[str, Any], layers: list[int]) -> Activations:
        """Hidden states [B, T, d] of base and variant at some layers; see `views.activations`."""
        from pairtune.pair import views

        return views.activations(self, batch, layers)

    # -- proofs ------------------------------------------------------------------------------------------------------

    def verify_base(self, before: str) -> None:
        """Raise unless the base's checksum is still `before` (taken with `base.checksum()`)."""
        if self.base.checksum() != before:
            raise PairtuneError(
                f"{self.base.source}: the base's weights have changed in memory; the delta is not its own"
            )


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode while inside; every submodule's own mode is put back after."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode
