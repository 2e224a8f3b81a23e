"""A PEFT adapter on a base, with the switch of a pair: what every tuner that stands on PEFT returns.

PEFT's own switches (`disable_adapter`, `set_adapter`) act on every adapter of a model at once and set `requires_grad`
as they go; a pair switches one delta of a stack, in the middle of a step. So the flags that PEFT's layers read are set
here, layer by layer, and nothing is merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn

from pairtune.errors import MissingView
from pairtune.pair.files import write_json, write_safetensors
from pairtune.pair.hub import ADAPTER_FILE
from pairtune.pair.installed import Installed, check_state, first_changed_block
from pairtune.tuners.peft_config import to_json
from pairtune.tuners.peft_initial import INITIAL, doubled

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

    from pairtune.pair.base import Base

WEIGHTS_FILE = "adapter_model.safetensors"


class InstalledPeft(Installed):
    """One PEFT adapter on a base.

    Args:
        base: the base that it stands on.
        peft_model: PEFT's wrapper around the base's model; the module to call.
        adapter: the adapter's name in it.
        below: the adapters that were active in a layer before this one came.
        provides: as in `Installed`.
    """

    def __init__(
        self,
        base: Base,
        peft_model: PeftModel,
        adapter: str,
        below: Mapping[Any, list[str]],
        provides: Iterable[str],
    ):
        super().__init__(peft_model, provides)
        self.base, self.peft, self.adapter = base, peft_model, adapter
        self.config: PeftConfig = peft_model.peft_config[adapter]
        self._below = dict(below)
        self.alone = not self._below
        self._names = (adapter, adapter + INITIAL)
        self.layers = [m for m in peft_model.modules() if isinstance(m, BaseTunerLayer) and adapter in _adapters(m)]
        self._wrappers = [
            m for m in peft_model.modules() if isinstance(m, AuxiliaryTrainingWrapper) and adapter in m._adapters
        ]
        self._scales: dict[Any, dict[str, float]] = {
            m: dict(own) for m in self.layers if isinstance(own := getattr(m, "scaling", None), dict)
        }
        self.trained = {m: dict(_module_parameters(m, adapter)) for m in self._saved_modules()}
        self._trainable = [(name, p) for name, p in peft_model.named_parameters() if p.requires_grad]
        self.on()

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        return list(self._trainable)

    def on(self) -> None:
        self._rescale(1.0)
        for layer in self.layers:
            layer._active_adapter = [*self._below.get(layer, []), self.adapter]
            layer._disable_adapters = False
        for wrapper in self._wrappers:
            wrapper._active_adapter = [self.adapter]
            wrapper._disable_adapters = False
        for module, parameters in self.trained.items():
            _put(module, self.adapter, parameters)
        self._switch_attention(True)

    def off(self) -> None:
        self._rescale(1.0)
        for layer in [*self.layers, *self._wrappers]:
            below = self._below.get(layer, [])
            layer._active_adapter = list(below)
            layer._disable_adapters = not below
        self._switch_attention(False)

    def scale(self, alpha: float) -> None:
        if "scale" not in self.provides:
            raise MissingView(f"peft:{self.config.peft_type.lower()} cannot be scaled; off (0) and on (1) work")  # type: ignore[union-attr]
        self.on()
        self._rescale(alpha)
        for module, parameters in self.trained.items():
            below = self._below.get(module)
            lower = module.modules_to_save[below[0]] if below else module.original_module
            original = dict(lower.named_parameters())
            with torch.no_grad():
                mixed = {
                    name: original[name].lerp(parameters[name].to(original[name].dtype), alpha) for name in parameters
                }
            _put(
                module, self.adapter, {name: nn.Parameter(value, requires_grad=False) for name, value in mixed.items()}
            )

    def first_changed(self) -> int:
        if self.config.is_prompt_learning:
            return 0
        names = [name.removeprefix("base_model.model.") for name, _ in self._trainable]
        return first_changed_block(self.base.model, names)

    def state(self) -> dict[str, Tensor]:
        """Names as in PEFT's own files; what an initialiser took out of the base is added under `initial.`.

        A prompt's encoder is given as it trains: PEFT's file holds only the vectors that come out of it.
        """
        if self.config.is_prompt_learning and not self.config.inference_mode:
            return super().state()
        return {**self.stored(), **{f"initial.{name}": tensor for name, tensor in self.initial_state().items()}}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        if self.config.is_prompt_learning and not self.config.inference_mode:
            super().load_state(tensors)
            return
        check_state(self.state(), tensors)
        self.load_stored({name: value for name, value in tensors.items() if not name.startswith("initial.")})
        with torch.no_grad():
            for name, tensor in self.initial_state().items():
                tensor.copy_(tensors[f"initial.{name}"])

    def stored(self) -> dict[str, Tensor]:
        """The tensors of PEFT's file, by the names in it."""
        marker = f".{self.adapter}{INITIAL}"
        state = get_peft_model_state_dict(self.peft, adapter_name=self.adapter, save_embedding_layers=False)
        return {name: tensor.detach() for name, tensor in state.items() if marker not in name}

    def load_stored(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the tensors of a PEFT file in. Raises `DeltaMismatch` unless names, shapes and values are all right."""
        check_state(self.stored(), tensors)
        placed = {name: tensor.to(self.base.device) for name, tensor in tensors.items()}
        set_peft_model_state_dict(self.peft, placed, adapter_name=self.adapter)

    def write(self, folder: Path) -> list[str]:
        """Write PEFT's own two files. An adapter that was initialised from the base's weights becomes a plain LoRA."""
        tensors, config = self.stored(), to_json(self.config)
        if initial := self.initial_state():
            tensors, config = doubled(tensors, initial, config)
        seen: dict[int, str] = {}
        for name, tensor in tensors.items():
            # Some methods share one tensor between layers; a safetensors file holds each place's own copy.
            again = seen.setdefault(tensor.untyped_storage().data_ptr(), name) != name
            tensors[name] = tensor.clone() if again else tensor.contiguous()
        write_safetensors(folder / WEIGHTS_FILE, tensors, {"format": "pt"})
        write_json(folder / ADAPTER_FILE, config)
        return [ADAPTER_FILE, WEIGHTS_FILE]

    def full_scale(self, layer: BaseTunerLayer) -> float:
        """The factor of a layer's change at alpha = 1, whatever fraction is on now."""
        return self._scales[layer][self.adapter]

    def initial_state(self) -> dict[str, Tensor]:
        """Factors B0, A0 that an initialiser took from the base's weights, frozen; empty for most adapters."""
        marker = f".{self.adapter}{INITIAL}."
        return {
            name.replace(marker, "."): parameter.detach()
            for name, parameter in self.peft.named_parameters()
            if marker in name
        }

    def _saved_modules(self) -> list[ModulesToSaveWrapper]:
        return [module for module in self._wrappers if isinstance(module, ModulesToSaveWrapper)]

    def _rescale(self, alpha: float) -> None:
        for layer, scales in self._scales.items():
            for name in self._names:
                if name in scales:
                    layer.scaling[name] = scales[name] if alpha == 1.0 else alpha * scales[name]  # type: ignore[attr-defined]

    def _switch_attention(self, on: bool) -> None:
        """Adaption prompts exchange whole attention modules instead of wrapping layers."""
        tuner: Any = self.peft.base_model
        if self.config.is_adaption_prompt and tuner._enabled != on:
            tuner.enable_adapter_layers() if on else tuner.disable_adapter_layers()


def _adapters(layer: BaseTunerLayer) -> set[str]:
    return set(layer._all_available_adapter_names())


def _module_parameters(wrapper: ModulesToSaveWrapper, adapter: str) -> Iterable[tuple[str, nn.Parameter]]:
    return wrapper.modules_to_save[adapter].named_parameters()


def _put(wrapper: ModulesToSaveWrapper, adapter: str, parameters: Mapping[str, nn.Parameter]) -> None:
    root = wrapper.modules_to_save[adapter]
    for name, parameter in parameters.items():
        owner, _, attribute = name.rpartition(".")
        root.get_submodule(owner)._parameters[attribute] = parameter
