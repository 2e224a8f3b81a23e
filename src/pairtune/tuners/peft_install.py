"""Install a PEFT method on a base, fresh or from a PEFT folder, with the base's weights as they are."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn

from pairtune.errors import DeltaMismatch, InputError
from pairtune.pair.files import open_safetensors
from pairtune.pair.modality import TEXT
from pairtune.pair.names import is_linear
from pairtune.tuners.peft_config import read_config
from pairtune.tuners.peft_handle import WEIGHTS_FILE, InstalledPeft
from pairtune.tuners.peft_initial import keep_initial, takes_from_base, untouched

if TYPE_CHECKING:
    from peft import PeftConfig

    from pairtune.pair.base import Base

# Methods whose change is scaling · something that does not depend on the scaling.
_LINEAR = frozenset({"LORA", "ADALORA", "LOHA", "LOKR"})
# Settings of LoRA with which its change of a matrix is not scale · B · A (nor DoRA's of that).
_OTHER_FORMS = (
    "velora_config", "alora_invocation_tokens", "use_qalora", "monteclora_config", "lora_bias", "target_parameters",
    "use_bdlora", "arrow_config", "kasa_config", "trainable_token_indices",
)  # fmt: skip


def install_peft(base: Base, pair_model: nn.Module, config: PeftConfig, *, with_initial: bool = False) -> InstalledPeft:
    """Add a PEFT adapter to the base's model and switch it on.

    Args:
        with_initial: keep the first factors frozen beside those that train, whatever they are; ordinarily only where an
            initialiser takes them from the base's weights.

    Raises `InputError` where PEFT refuses the base or the stack below is no place for an adapter.
    """
    check_stack(base, pair_model)
    if config.is_prompt_learning and base.modality is not TEXT:
        raise InputError(
            f"peft:{_kind(config)} learns tokens before a text, and {base.source} reads {base.modality.many}; take "
            "deep-prompt"
        )
    base.model.requires_grad_(False)
    below = {
        module: list(module.active_adapters) if not module._disable_adapters else []
        for module in base.model.modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
    }
    used = set(getattr(base.model, "peft_config", None) or {})
    adapter = "default" if "default" not in used else f"delta_{len(used)}"
    taken = takes_from_base(config)
    guard = untouched(base.model) if taken else contextlib.nullcontext()
    try:
        with guard, warnings.catch_warnings():
            # Its warnings concern a second adapter (meant here) and names of bases (recorded in the card).
            warnings.simplefilter("ignore")
            model = get_peft_model(base.model, config, adapter_name=adapter)
    except (ValueError, TypeError, NotImplementedError, KeyError, AttributeError) as error:
        raise InputError(f"peft:{_kind(config)} cannot be installed on {base.source}: {_why(base, error)}") from None
    config.base_model_name_or_path = base.source
    if taken or with_initial:
        keep_initial(model, adapter)
    _begin_where_the_stack_is(model, adapter, below)
    if config.is_prompt_learning:
        model.register_forward_hook(_without_prompt, with_kwargs=True)
    model.eval()  # as the base is when it is loaded
    return InstalledPeft(base, model, adapter, below, _provides(base, config))


def _why(base: Base, error: Exception) -> str:
    """PEFT's message; where it wants a setting that has a default for other models, what there is to name."""
    wanted = re.search(r"specify `(\w*modules)`", str(error))
    if wanted is None:
        return str(error)
    inside = [name for _, block in base.blocks[:1] for name, module in block.named_modules() if is_linear(module)]
    return f"PEFT has no default for this model; name some of {', '.join(inside)} as --tuner.{wanted[1]}"


def restore_peft(base: Base, pair_model: nn.Module, folder: Path, *, allow_partial: bool = False) -> InstalledPeft:
    """Install the adapter in a PEFT folder, made here or by PEFT itself.

    Every tensor must be there, none more, all finite; `allow_partial` accepts missing ones, which keep their first
    values. Raises `DeltaMismatch` naming what does not fit.
    """
    config, tensors = read_adapter(folder)
    taken = takes_from_base(config)
    if taken and taken.lower() not in ("pissa", "olora"):
        raise DeltaMismatch(
            f"{Path(folder).name}: a LoRA made with init {taken} is relative to weights that are not stored; save it "
            "with PEFT's path_initial_model_for_weight_conversion"
        )
    # What an initialiser took out is computed from the base again, as PEFT does.
    installed = install_peft(base, pair_model, config)
    try:
        if allow_partial:
            tensors = {**{name: value for name, value in installed.stored().items() if name not in tensors}, **tensors}
        installed.load_stored(tensors)
    except DeltaMismatch as error:
        remove(installed)
        raise DeltaMismatch(f"{Path(folder).name}: {error}") from None
    return installed


def read_adapter(folder: Path) -> tuple[PeftConfig, dict[str, Tensor]]:
    """Configuration and tensors of a PEFT folder; raises as `read_config` and `open_safetensors`."""
    opened = open_safetensors(Path(folder) / WEIGHTS_FILE)
    return read_config(folder), {name: opened.tensor(name) for name in opened}


def remove(installed: InstalledPeft) -> None:
    """Take an adapter that was just installed off the base's model again."""
    installed.off()
    for parameter in dict(installed.trainable()).values():
        parameter.requires_grad_(False)
    tuner: Any = installed.peft.base_model
    if installed.alone and hasattr(tuner, "unload"):
        tuner.unload()
        installed.base.model.__dict__.pop("peft_config", None)


def _begin_where_the_stack_is(model: nn.Module, adapter: str, below: Mapping[Any, list[str]]) -> None:
    """Undo what PEFT does to the adapters below: it switches them off, and copies trained heads from the base's."""
    for wrapper, active in below.items():
        wrapper._active_adapter, wrapper._disable_adapters = list(active), not active
        if isinstance(wrapper, ModulesToSaveWrapper) and active and adapter in wrapper.modules_to_save:
            lower = wrapper.modules_to_save[active[0]].state_dict()
            wrapper.modules_to_save[adapter].load_state_dict(lower)


def check_stack(base: Base, pair_model: nn.Module) -> None:
    """PEFT's layers go into the base's model, so that what is called must be that model, or PEFT's wrapper of it."""
    inner: Any = pair_model
    if inner is not base.model:
        inner = inner.get_base_model() if hasattr(inner, "get_base_model") else None
    prompts = getattr(pair_model, "_is_prompt_learning", False)
    if inner is not base.model or prompts:
        raise InputError(f"a PEFT adapter cannot stand on {type(pair_model).__name__}; train it first, or alone")


def _without_prompt(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """Drop the logits of virtual tokens: everything outside reads one vector of logits a real token."""
    ids = kwargs.get("input_ids", args[0] if args else None)
    logits = getattr(output, "logits", None)
    if ids is not None and logits is not None and logits.ndim == 3 and not module.base_model.config.is_encoder_decoder:
        output.logits = logits[:, -ids.shape[1] :]
    return output


def _provides(base: Base, config: PeftConfig) -> frozenset[str]:
    given = {base.view or "labels"}
    kind = _kind(config).upper()
    given.add("peft")
    lora = kind == "LORA" and not any(getattr(config, name, None) for name in _OTHER_FORMS)
    dora = bool(getattr(config, "use_dora", False))
    if kind in _LINEAR and (kind != "LORA" or (lora and not dora)):
        given.add("scale")
    if lora and not (dora and base.quantize):
        given.add("merge")
        if getattr(config, "init_lora_weights", True) in (True, "gaussian") or (takes_from_base(config) and not dora):
            given.add("identity_at_start")
    return frozenset(given)


def _kind(config: PeftConfig) -> str:
    return str(getattr(config.peft_type, "value", config.peft_type)).lower()
