"""Put LEVI on a base or on a stack, and switch it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pairtune.errors import InputError
from pairtune.pair.installed import Installed, SwappedParameters, check_state
from pairtune.tuners.levi import chosen_layers
from pairtune.tuners.levi_model import AdaptingHeads, LeviModel, best_head
from pairtune.tuners.pooling import default_pool, readable_blocks
from pairtune.tuners.small_models import SmallCNN, SmallTransformer

if TYPE_CHECKING:
    from pairtune.pair.base import Base
    from pairtune.tuners.levi import Levi
    from pairtune.tuners.peft_handle import InstalledPeft

log = logging.getLogger("pairtune")
IGNORED_BELOW = 0.05  # share of the small model in a head's first layer below which the head hardly uses it


class InstalledLevi(Installed):
    """LEVI on a base. Off, the pair calls what is below: there is no head of the base to compare with.

    Args:
        model: what is called.
        adapter: a LoRA on the base that trains along.
        random: random weights in the place of the base's (an ablation).
        lora_lr: learning rate of that LoRA as a multiple of the run's.
    """

    def __init__(
        self,
        model: LeviModel,
        provides: Iterable[str],
        adapter: InstalledPeft | None,
        random: SwappedParameters | None,
        lora_lr: float,
        key: Mapping[str, Any],
    ):
        super().__init__(model, provides)
        self.levi, self._adapter, self._random, self._key = model, adapter, random, dict(key)
        parts = [("heads", model.heads), *([("small", model.small)] if model.small is not None else [])]
        own = [(f"{part}.{name}", p) for part, module in parts for name, p in module.named_parameters()]
        lora = [(f"lora.{name}", p) for name, p in adapter.trainable()] if adapter else []
        self._trainable = [*own, *lora]
        self.lr_scales = {name: lora_lr for name, _ in lora}

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        return list(self._trainable)

    def on(self) -> None:
        for part in (self._random, self._adapter):
            if part is not None:
                part.on()

    def off(self) -> None:
        for part in (self._adapter, self._random):
            if part is not None:
                part.off()

    def first_changed(self) -> int:
        return 0

    def state(self) -> dict[str, Tensor]:
        """Small model, heads, LoRA, and which head predicts (`chosen`, −1: their mean). Never a copy of the base."""
        own = {name: p.detach() for name, p in self._trainable if not name.startswith("lora.")}
        lora = {f"lora.{name}": value for name, value in self._adapter.state().items()} if self._adapter else {}
        return {**own, **lora, "chosen": torch.tensor([self.levi.chosen])}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        check_state(self.state(), tensors)
        with torch.no_grad():
            for name, parameter in self._trainable:
                if not name.startswith("lora."):
                    parameter.copy_(tensors[name])
        if self._adapter:
            lora = {name.removeprefix("lora."): value for name, value in tensors.items() if name.startswith("lora.")}
            self._adapter.load_state(lora)
        self.levi.chosen = int(tensors["chosen"])

    def write(self, folder: Path) -> list[str]:
        shares = self.report()
        if shares:
            log.info("levi: share of the small model in each head: %s", ", ".join(f"{v:.0%}" for v in shares.values()))
        if weak := [name for name, share in shares.items() if share < IGNORED_BELOW]:
            log.warning(
                "levi: %d of %d heads hardly use the small model (share below %.0f %%): %s",
                len(weak), len(shares), 100 * IGNORED_BELOW, ", ".join(weak),
            )  # fmt: skip
        return super().write(folder)

    def report(self) -> dict[str, float]:
        """|W_Q z| / (|W_P h| + |W_Q z|) of each head over the last hundred training batches; empty before training."""
        shares = self.levi.heads.shares
        if not shares:
            return {}
        mean = torch.stack(shares).mean(0).tolist()
        return {f"small_share/head_{layer}": share for layer, share in zip(self.levi.layers, mean, strict=True)}

    def features(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """{"pooled": [B, K, d_P]} float32 of a batch, from the frozen base in evaluation mode, without gradients."""
        from pairtune.pair.pair import evaluating

        with torch.no_grad(), evaluating(self.levi.base_model):
            return self.levi.features(batch)

    def cache_key(self) -> dict[str, Any]:
        """What the features depend on besides base and data."""
        return dict(self._key)

    @torch.no_grad()
    def choose_head(self, batches: Iterable[dict[str, Any]]) -> int:
        """Predict with the head that alone is best on ID validation batches, not with the mean (an ablation)."""
        from pairtune.pair.outputs import model_inputs
        from pairtune.pair.pair import evaluating

        logits, labels = [], []
        with evaluating(self.levi):
            for batch in batches:
                inputs = model_inputs(batch)
                features = inputs.pop("features", None) or self.levi.features(inputs)
                logits.append(self.levi.head_logits(features, inputs))
                labels.append(batch["labels"])
        self.levi.chosen = best_head(torch.cat(logits), torch.cat(labels))
        return self.levi.chosen


def install_levi(settings: Levi.Settings, base: Base, call: nn.Module) -> InstalledLevi:
    """Make the small model and the heads for a base, on what `call` (the base's model, or a stack on it) computes."""
    count = len(readable_blocks(base))
    layers = chosen_layers(settings.layers, count)
    how = default_pool(base) if settings.pool == "auto" else settings.pool
    call.requires_grad_(False)
    random = _random_weights(base, settings.random_base) if settings.random_base is not None else None
    adapter = _adapter(base, call, settings.lora) if settings.lora else None
    small = None
    if settings.small != "none":
        kind = SmallTransformer if settings.small == "transformer" else SmallCNN
        source = base.hidden_size if settings.view == "base" else None
        rows = max(base.vocabulary_rows, len(base.tokenizer))
        small = kind(rows, settings.small_width, settings.dropout, source).to(base.device)
    heads = AdaptingHeads(
        max(len(layers), 1),
        base.hidden_size if layers else 0,
        settings.small_width if small is not None else 0,
        settings.hidden,
        _outputs(base),
        settings.depth,
        settings.dropout,
    ).to(base.device)
    weights = (settings.head_weight, settings.ensemble_weight)
    called = adapter.model if adapter else call
    model = LeviModel(base, called, layers, how, heads, small, weights, settings.view == "base", adapter is not None)
    model.eval()  # as the base is when it is loaded
    cacheable = {"cacheable"} if layers and adapter is None and settings.view == "own" else set()
    key = {"layers": layers, "pool": how, "random_base": settings.random_base}
    return InstalledLevi(model, {"labels", *cacheable}, adapter, random, settings.lora_lr, key)


def _outputs(base: Base) -> int:
    """Number of outputs: the classes of the base's task, or one number."""
    if base.labels:
        return len(base.labels)
    return (base.model.config.num_labels or 1) if type(base.model).__name__.endswith("ForSequenceClassification") else 1


def _adapter(base: Base, call: nn.Module, rank: int) -> InstalledPeft:
    """A LoRA on the blocks; the base's own head is not part of LEVI and gets none."""
    from pairtune.tuners.lora import LoRA
    from pairtune.tuners.peft_config import make_config
    from pairtune.tuners.peft_install import install_peft

    config = make_config(base, "lora", LoRA(r=rank, alpha=2 * rank).peft_settings(), heads=False)
    readable = set(readable_blocks(base))
    inside = "|".join(re.escape(name) for name, block in base.blocks if block in readable)
    config.exclude_modules = rf"(?!(?:{inside})\.).*"  # type: ignore[attr-defined]  # what lies outside is not run here
    return install_peft(base, call, config)


def _random_weights(base: Base, seed: int) -> SwappedParameters:
    """Freshly initialised Parameters in the place of the base's, the same for the same seed."""
    if base.quantize:
        raise InputError("levi: random_base needs a base that is not quantised")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(base.model)(base.model.config)
    values = dict(fresh.named_parameters(remove_duplicate=True))
    like = base.parameters
    variants = {n: nn.Parameter(values[n].detach().to(p.device, p.dtype), requires_grad=False) for n, p in like.items()}
    return SwappedParameters(base.model, variants, provides=())
