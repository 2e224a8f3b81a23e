"""The pretrained side of a pair: a model as it was stored, frozen, and known by its fingerprint."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
import torch

from pairtune.errors import FormatError, InputError
from pairtune.pair import hub
from pairtune.pair.checkpoint import Checkpoint, Fingerprint, tokenizer_digest
from pairtune.pair.heads import keep_output, model_class, under_a_classifier
from pairtune.pair.modality import HEADS, TEXT, Modality, modality_of, tower_config
from pairtune.pair.names import Names, blocks
from pairtune.pair.positions import count_positions
from pairtune.zoo import path as zoo_path

if TYPE_CHECKING:  # transformers takes half a second to import, and is when a model is loaded
    import transformers
    from transformers import PreTrainedModel

log = logging.getLogger("pairtune")

Family = Literal["causal", "seq2seq", "encoder"]


@dataclass
class Base:
    """A loaded base. Its parameters are frozen and it is in evaluation mode; nothing writes to them again.

    Attributes:
        tokenizer: the tokenizer; of a base that reads images or sound its processor, which takes that place.
        family: "causal" and "seq2seq" have the tokens view; "encoder" has labels once a head is there.
        modality: what it reads: text, images or sound (spectrograms).
        new_names: names in memory of a task head that the checkpoint does not hold (it belongs to the delta).
        pristine: the model's modules as they were loaded, over the same weights; nothing is ever put into them.
    """

    model: PreTrainedModel
    pristine: PreTrainedModel
    tokenizer: Any
    source: str
    revision: str | None
    family: Family
    folder: Path
    checkpoint: Checkpoint
    names: Names
    new_names: frozenset[str] = frozenset()
    quantize: str | None = None
    labels: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    modality: Modality = TEXT

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        task: str | None = None,
        labels: list[str] | None = None,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        quantize: Literal["4bit"] | None = None,
        head_seed: int = 0,
    ) -> Base:
        """Load a base from a hub id, a local folder or `zoo:<name>`.

        Args:
            task: the task's kind; on an encoder "classification", "multilabel" and "regression" add a new head with
                `len(labels)` outputs (1 for regression), "lm" loads the head that says hidden tokens, new where the
                checkpoint has none. On a language model, classification is text: no head is made.
            dtype: None keeps float32 where it fits in 40 % of the free memory, else the stored type.
            device: None takes the accelerator if there is one.
            quantize: "4bit" loads the linear layers in NF4 (bitsandbytes).
            head_seed: the seed of a new head's initial values.

        Raises `InputError` when there is no such model, `FormatError` when its files are damaged or a tensor is
        missing from them: nothing but a new head is ever initialised at random.
        """
        from pairtune.pair.twin import skeleton

        name = str(source)
        folder = folder_of(name, revision)
        config = hub.load_config(folder)
        family, modality = family_of(config), modality_of(config)
        checkpoint = Checkpoint(folder)
        notes: list[str] = []
        auto_class, keywords, is_new = model_class(config, family, task, labels)
        device = torch.device(device) if device is not None else _best_device()
        dtype = _pick_dtype(dtype, checkpoint, device, notes)
        if quantize == "4bit":
            import transformers

            keywords["quantization_config"] = transformers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
            keywords["device_map"] = {"": device}
        elif quantize is not None:
            raise InputError(f"quantize: expected '4bit' or nothing, found {quantize!r}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(head_seed)
            model, info = hub.load_model(auto_class, folder, allow_new=is_new, dtype=dtype, **keywords)
        new = frozenset(info["missing_keys"]) | {item[0] for item in info["mismatched_keys"]}
        if quantize is None:
            model.to(device)  # type: ignore[arg-type]
        if task == "lm" and family == "encoder":
            keep_output(model)
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                # On some CPUs bitsandbytes lays 4-bit weights out anew at the first evaluation, and from then on
                # no gradient passes through them, without a word.
                module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
        model.eval().requires_grad_(False)
        base = cls(
            model=model,
            pristine=skeleton(model),
            tokenizer=reader_of(folder, config, modality),
            source=name,
            revision=revision,
            family=family,
            folder=folder,
            checkpoint=checkpoint,
            names=Names(model, checkpoint),
            new_names=new,
            quantize=quantize,
            labels=labels,
            notes=notes,
            modality=modality,
        )
        base._check_vocabulary()
        base._check_finite()
        count_positions(base)
        log.info("%s", base.describe())
        return base

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Hash of the stored tensors that this model loads, and of the tokenizer. Reads every stored byte once."""
        loaded = [name for name in self.checkpoint if self.names.memory(name) not in (None, *self.new_names)]
        if self.modality is not TEXT:
            loaded = [name for name in loaded if "pooler." not in name]  # no head of a task reads it
        if self.view == "masked":
            loaded = under_a_classifier(self.model, self.checkpoint)
        return Fingerprint.of(self.checkpoint, loaded, self.model.base_model_prefix, tokenizer_digest(self.tokenizer))

    def __post_init__(self):
        # The Parameter objects as loaded: whoever tunes exchanges them, nobody writes to them.
        self.parameters = dict(self.model.named_parameters(remove_duplicate=True))
        self.vocabulary_rows = 0
        if self.modality is TEXT:
            embeddings: Any = self.model.get_input_embeddings()
            self.vocabulary_rows = int(embeddings.weight.shape[0])

    def checksum(self) -> str:
        """SHA-256 over the values in memory of every loaded Parameter, a new head's excluded."""
        total = hashlib.sha256()
        for name, parameter in sorted(self.parameters.items()):
            if name not in self.new_names:
                data = parameter.detach().contiguous().flatten().view(torch.uint8)
                total.update(name.encode())
                total.update(data.cpu().numpy().data)
        return total.hexdigest()

    @property
    def view(self) -> str | None:
        """What the model's own head says: "tokens", "labels", or the hidden ones of an encoder ("masked")."""
        if self.family != "encoder":
            return "tokens"
        heads = {**dict.fromkeys(HEADS, "labels"), "ForMaskedLM": "masked"}
        return next((view for end, view in heads.items() if type(self.model).__name__.endswith(end)), None)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the model's floating-point parameters in memory."""
        return self.model.dtype

    @cached_property
    def blocks(self) -> list[tuple[str, torch.nn.Module]]:
        """Names and modules of the transformer blocks, in the order in which they run."""
        return blocks(self.model)

    @property
    def hidden_size(self) -> int:
        """Width of the blocks' output."""
        return tower_config(self.model.config).hidden_size

    def stored(self, name: str) -> torch.Tensor:
        """A stored tensor by its name on disk, as stored (memory-mapped)."""
        return self.checkpoint[name]

    def describe(self) -> str:
        """One line: what was loaded, how large, in which type, where."""
        count = sum(parameter.numel() for parameter in self.model.parameters())
        parts = [f"{self.source}: {type(self.model).__name__}, {count / 1e6:.1f} M parameters"]
        parts.append(f"{str(self.dtype).removeprefix('torch.')} on {self.device}")
        parts.append(f"loaded {len(self.names.on_disk) - len(self.new_names)} tensors")
        if self.new_names:
            parts.append(f"new head: {', '.join(sorted(self.new_names))}")
        return "; ".join([*parts, *self.notes])

    def _check_finite(self) -> None:
        broken = [n for n, p in self.parameters.items() if p.is_floating_point() and not p.isfinite().all()]
        if broken:
            stored = self.names.disk(broken[0])[0]
            raise FormatError(f"{self.source}: NaN or infinite values in {stored} ({len(broken)} such tensors)")

    def _check_vocabulary(self) -> None:
        """Every id that the tokenizer can make must have a row in the embedding."""
        if self.modality is not TEXT:
            return
        highest = max(self.tokenizer.get_vocab().values())
        if highest >= self.vocabulary_rows:
            raise FormatError(
                f"{self.source}: the tokenizer makes ids up to {highest} but the embedding has {self.vocabulary_rows} "
                "rows; the tokenizer belongs to another checkpoint"
            )


def folder_of(source: str, revision: str | None = None) -> Path:
    """The local folder of a base; raises as `hub.local_folder`."""
    return zoo_path(source.removeprefix("zoo:")) if source.startswith("zoo:") else hub.local_folder(source, revision)


def family_of(config: transformers.PretrainedConfig) -> Family:
    """Encoder-decoder, decoder-only or encoder, from the configuration alone."""
    import transformers

    if config.is_encoder_decoder:
        return "seq2seq"
    architectures = " ".join(config.architectures or ())
    if "ForCausalLM" in architectures or "LMHeadModel" in architectures:
        return "causal"
    encoder_heads = transformers.MODEL_FOR_MASKED_LM_MAPPING
    if "MaskedLM" not in architectures and type(config) not in encoder_heads.keys():
        return "causal" if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING.keys() else "encoder"
    return "encoder"


def reader_of(folder: Path, config: Any, modality: Modality) -> Any:
    """The tokenizer, or what takes its place."""
    if modality is TEXT:
        return hub.load_tokenizer(folder)
    return hub.load_processor(folder, modality.name, getattr(tower_config(config), "num_channels", 3))


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def _pick_dtype(dtype, checkpoint: Checkpoint, device: torch.device, notes: list[str]) -> torch.dtype:
    """Float32 where it fits, since half precision makes scores depend on the batch."""
    if isinstance(dtype, str):
        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype):
            raise InputError(f"dtype: {dtype!r} is not a torch type; try float32 or bfloat16")
        dtype = found
    if dtype is not None:
        if dtype != torch.float32:
            notes.append(f"asked for {str(dtype).removeprefix('torch.')}: scores depend on the batch by about 4e-3")
        return dtype
    count = sum(torch.Size(checkpoint.shape(name)).numel() for name in checkpoint)
    free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else psutil.virtual_memory().available
    if count * 4 < 0.4 * free:
        return torch.float32
    notes.append("bfloat16, since float32 would not fit in 40 % of the free memory")
    return torch.bfloat16
