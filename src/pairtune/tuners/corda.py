"""LoRA that starts from the directions of each weight matrix that a context uses, or leaves alone (CorDA).

Yang et al., "CorDA: Context-Oriented Decomposition Adaptation of Large Language Models", arXiv 2406.05223: a few texts
say what a layer's inputs are like, and the singular directions of the weights are ordered by it. In the mode "ipm"
(instruction-previewed) the adapter begins as the largest ones for the task's own texts, in "kpm" (knowledge-preserved)
as the smallest ones for texts whose knowledge is to stay.

    U S Vᵀ = svd(W C'),  V̂ᵀ = Vᵀ C'⁻¹,  B0 = U_r √S_r,  A0 = √S_r V̂_rᵀ;   y = W x + (alpha / r) (B A − B0 A0) x

W: [o, i] frozen; C' = C + δ mean(diag C) I: [i, i], the damped second moment of the layer's inputs (`covariance.py`);
A, B start at A0, B0 (divided by √scale), which stay frozen beside them. PEFT's initialiser makes the factors and PEFT's
layers hold them; a saved pair is a plain LoRA of rank 2r.

Departures: the paper overwrites W by W − B0 A0, here the base stays (`peft_initial.py`); inverse and decomposition in
float64; each row is divided by its largest entry in size; padding does not count, and any batch size will do; the
pooler of an encoder and all heads are left alone. Without `data`, 256 rows of the run's own training split are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic
from pydantic import Field

from pairtune import method
from pairtune.errors import DeltaMismatch, InputError
from pairtune.tuners import Tuner

if TYPE_CHECKING:
    from torch import nn

    from pairtune.pair.base import Base
    from pairtune.pair.delta import Delta
    from pairtune.pair.installed import Installed

_ROWS_AT_ONCE = 16


class CorDA(Tuner):
    """A LoRA whose first factors come from the base's weights and a context."""

    provides = frozenset({"tokens", "labels", "masked", "scale", "merge", "identity_at_start"})
    modalities = frozenset({"text"})
    default_lr = 1e-4
    trainable_share = 0.059

    class Settings(method.Settings):
        mode: Literal["ipm", "kpm"] = Field("ipm", description="begin at the directions that the context uses, or not")
        data: str | None = Field(None, description="the context: a task, whose training rows are read; kpm needs one")
        r: int = Field(16, ge=1, description="rank of the change of each matrix")
        alpha: float | None = Field(None, gt=0, description="the change is multiplied by alpha / r; by default 1")
        dropout: float = Field(0.0, ge=0, lt=1, description="share of the adapters' inputs that is dropped in training")
        targets: Literal["all-linear"] | list[str] = Field(
            "all-linear", description="which layers: all linear ones in the blocks, or ends of module names"
        )
        rows: int = Field(256, ge=1, description="rows of the context that are read")
        length: int = Field(256, ge=2, description="most tokens of a row of the context")
        cache: str | None = Field(None, description="folder that keeps what was measured, by base and texts")

        @pydantic.field_validator("data")
        @classmethod
        def _known_context(cls, data: str | None, info: pydantic.ValidationInfo) -> str | None:
            if data is None and info.data.get("mode") == "kpm":
                raise ValueError("kpm keeps the knowledge of some texts; name a task that holds them")
            return data

    settings: Settings

    def install(
        self, base: Base, pair_model: nn.Module, calibration: Iterable[dict[str, Any]] | None = None
    ) -> Installed:
        from pairtune.tuners.corda_initial import prepare
        from pairtune.tuners.peft_config import make_config
        from pairtune.tuners.peft_install import check_stack, install_peft

        own = self.settings
        check_stack(base, pair_model)
        batches = self._context(base) if own.data is not None else list(_first_rows(calibration or (), own.rows))
        if not batches:
            raise InputError("corda looks at data before it starts: name a task as `data`, or give calibration batches")
        wanted = {"lora_dropout": own.dropout, "target_modules": own.targets, "init_lora_weights": "corda"}
        config: Any = make_config(base, "lora", {"r": own.r, "lora_alpha": self._alpha, **wanted})
        try:
            prepare(base, pair_model, config, own.mode, batches, Path(own.cache) if own.cache else None)
            return install_peft(base, pair_model, config)
        finally:
            for module in base.model.modules():
                module.__dict__.pop("eigens", None)

    def extract(self, installed: Installed) -> Delta:
        from pairtune.tuners.peft_extract import extract_peft

        return extract_peft(installed)

    def restore(self, base: Base, pair_model: nn.Module, folder: Path) -> Installed:
        """The stored LoRA of rank 2r as what it was trained as: r that train, and the frozen r that it began with."""
        from pairtune.tuners.peft_initial import halved
        from pairtune.tuners.peft_install import install_peft, read_adapter

        config, tensors = read_adapter(folder)
        try:
            config, tensors = halved(config, tensors)
        except ValueError as error:
            raise DeltaMismatch(f"{Path(folder).name}: {error}") from None
        installed = install_peft(base, pair_model, config, with_initial=True)
        installed.load_state(tensors)
        return installed

    @property
    def _alpha(self) -> float:
        alpha = self.settings.r if self.settings.alpha is None else self.settings.alpha
        return alpha if alpha % 1 else int(alpha)

    def _context(self, base: Base) -> list[dict[str, Any]]:
        """Rows spread over the training split of the task `data`, encoded for the base."""
        from pairtune.data import Collator, Encoder, Task
        from pairtune.data.fitting import fitting

        own = self.settings
        task = Task.load(own.data)
        if "train" not in task.splits:
            raise InputError(f"tuner.data: {task.name} has no train split; corda reads no other")
        longest = getattr(base.model.config.get_text_config(), "max_position_embeddings", None) or own.length
        plain = base.family == "encoder" and task.kind in ("lm", "seq2seq")
        view = "masked" if plain else None
        encoder = Encoder(task, base.tokenizer, base.family, min(own.length, longest), view=view)
        split = fitting(encoder, task, ["train"]).split("train")
        encoded = encoder.split(split)
        numbers = list(range(0, len(split), max(1, len(split) // own.rows)))[: own.rows]
        collate = Collator(base.tokenizer, base.family)
        parts = [numbers[start : start + _ROWS_AT_ONCE] for start in range(0, len(numbers), _ROWS_AT_ONCE)]
        return [collate(encoded.take(part)) for part in parts]


def _first_rows(batches: Iterable[dict[str, Any]], rows: int) -> Iterable[dict[str, Any]]:
    """Batches until so many rows are there; the last one may hold some more."""
    left = rows
    for batch in islice(batches, rows):
        if left <= 0:
            return
        left -= len(batch["input_ids"])
        yield batch
