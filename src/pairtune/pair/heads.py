"""Which model a base is loaded as: its backbone alone, or under the head that a task asks for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from pairtune.errors import InputError
from pairtune.pair.modality import TEXT, clip_class, clip_config, modality_of, tower_of_clip

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD_KINDS = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}


def model_class(config, family: str, task: str | None, labels: list[str] | None):
    """The Auto class for the task, its keywords, and which names may be new."""
    import transformers

    if family == "causal":
        return transformers.AutoModelForCausalLM, {}, None
    if family == "seq2seq":
        return transformers.AutoModelForSeq2SeqLM, {}, None
    modality = modality_of(config)
    if task in HEAD_KINDS:
        names = labels if task != "regression" else ["value"]
        if not names:
            raise InputError(f"task {task}: a new head needs the list of labels")
        keywords = {
            "num_labels": len(names),
            "problem_type": HEAD_KINDS[task],
            "id2label": dict(enumerate(names)),
            "label2id": {label: i for i, label in enumerate(names)},
        }
        if tower_of_clip(config):
            auto_class, keywords = clip_class("CLIPForImageClassification"), {"config": clip_config(config, **keywords)}
            return auto_class, keywords, partial(is_head_name, prefix=auto_class.base_model_prefix)
        auto_class = getattr(transformers, modality.auto_class)
        if type(config) not in auto_class._model_mapping.keys():
            raise InputError(f"task {task}: transformers has no classification head for {config.model_type}")
        prefix = auto_class._model_mapping[type(config)].base_model_prefix  # type: ignore[union-attr]
        return auto_class, keywords, partial(is_head_name, prefix=prefix)
    if task in ("lm", "seq2seq") and modality is not TEXT:
        raise InputError(f"task {task}: {config.model_type} reads {modality.many} and writes nothing; it takes labels")
    if task == "lm":
        auto_class = transformers.AutoModelForMaskedLM
        if type(config) not in auto_class._model_mapping.keys():
            raise InputError(f"task lm: transformers has no head that says hidden tokens for {config.model_type}")
        prefix = auto_class._model_mapping[type(config)].base_model_prefix  # type: ignore[union-attr]
        return auto_class, {}, partial(is_head_name, prefix=prefix)
    if task == "seq2seq":
        raise InputError(f"task {task}: {config.model_type} is an encoder; take a causal or encoder-decoder base")
    bare: Any = transformers.AutoModel
    keywords: dict[str, Any] = {}
    if tower_of_clip(config):
        bare, keywords = clip_class("CLIPVisionModel"), {"config": clip_config(config).vision_config}
    with torch.device("meta"):
        make = bare._from_config if keywords else bare.from_config
        own = frozenset(make(keywords.get("config", config)).state_dict())
    # A pretraining head in the checkpoint is left out; the pooler is absent from checkpoints trained without it.
    return bare, keywords, lambda name: name not in own or name.startswith("pooler.")


def is_head_name(name: str, prefix: str) -> bool:
    """A task head lies outside the backbone; the pooler that only heads read counts with it."""
    return not name.startswith(prefix + ".") or ".pooler." in name


def keep_output(model: PreTrainedModel) -> None:
    """Make the output matrix of a loaded masked language model a buffer with the values that it has now.

    Where it is tied to the embeddings, these can then be tuned as what the model reads without changing what it says,
    and no entry of a delta stands in two places (Ansell et al., arXiv 2110.07560, do the same). No memory is taken: the
    base's embeddings, which nothing writes to, are shared. Raises `InputError` for a model without such a matrix.
    """
    decoder = model.get_output_embeddings()
    if decoder is None or "weight" not in decoder._parameters:
        raise InputError(f"{type(model).__name__} has no output matrix over its vocabulary; take another encoder")
    weight = decoder._parameters.pop("weight")
    assert weight is not None
    decoder.register_buffer("weight", weight.detach())
    name = next(name for name, module in model.named_modules() if module is decoder)
    model.all_tied_weights_keys.pop(f"{name}.weight", None)
    model.config.tie_word_embeddings = False


def under_a_classifier(model: PreTrainedModel, stored: Iterable[str]) -> list[str]:
    """Which of a checkpoint's tensors the same encoder loads under a new classifier: those by which it is known.

    So the fingerprint of a base does not depend on the head under which it is loaded.
    """
    import transformers

    auto_class, prefix = transformers.AutoModelForSequenceClassification, model.base_model_prefix + "."
    if type(model.config) not in auto_class._model_mapping.keys():
        return [name for name in stored if prefix + name.removeprefix(prefix) in model.state_dict()]
    with torch.device("meta"):
        names = auto_class.from_config(model.config).state_dict()
    return [name for name in stored if name in names or prefix + name in names]
