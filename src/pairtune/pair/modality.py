"""What a base reads, as one concept: text, images, or sound; and which of transformers' classes that means.

| modality | reads | a batch holds it under | a head is added by |
|---|---|---|---|
| text | token ids | `input_ids` [B, T] | AutoModelForSequenceClassification |
| image | pixels | `pixel_values` [B, C, H, W] | AutoModelForImageClassification |
| audio | log-mel spectrograms | `input_values` [B, frames, mel bins] | AutoModelForAudioClassification |

Encoders of images and sound are vision transformers: their blocks hand on [B, T, d], T positions (patches and class
tokens) that are the same for every input, so that nothing is ever padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from pairtune.errors import InputError

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PretrainedConfig

Name = Literal["text", "image", "audio"]
_SPECTROGRAMS = ("audio-spectrogram-transformer",)  # the others read the wave itself, in any length


@dataclass(frozen=True)
class Modality:
    """One thing that a base can read.

    Attributes:
        key: what its input is called in a batch.
        auto_class: transformers' class that puts a classification head on it; head: how such classes' names end.
        one, many: what its inputs are called in messages.
    """

    name: Name
    key: str
    auto_class: str
    head: str
    one: str
    many: str


TEXT = Modality("text", "input_ids", "AutoModelForSequenceClassification", "ForSequenceClassification", "text", "texts")
IMAGE = Modality(
    "image", "pixel_values", "AutoModelForImageClassification", "ForImageClassification", "image", "images"
)
AUDIO = Modality(
    "audio", "input_values", "AutoModelForAudioClassification", "ForAudioClassification", "recording", "recordings"
)
MODALITIES: Mapping[str, Modality] = {one.name: one for one in (TEXT, IMAGE, AUDIO)}
HEADS = tuple(one.head for one in MODALITIES.values())


def modality_of(config: PretrainedConfig) -> Modality:
    """What a model reads, from its configuration alone.

    Raises `InputError` for a model of sound that reads no spectrograms, which is not supported.
    """
    import transformers

    speaks = (
        transformers.MODEL_FOR_CAUSAL_LM_MAPPING,
        transformers.MODEL_FOR_MASKED_LM_MAPPING,
        transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    )
    if config.is_encoder_decoder or any(type(config) in mapping.keys() for mapping in speaks):
        return TEXT
    if type(config) in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.keys() or tower_of_clip(config):
        return IMAGE
    if type(config) in transformers.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING.keys():
        if config.model_type not in _SPECTROGRAMS:
            raise InputError(
                f"{config.model_type} reads the sound wave itself; of audio models only those of spectrograms are "
                "supported (AST)"
            )
        return AUDIO
    return TEXT


def modality_in(batch: Mapping[str, Any]) -> Modality:
    """What a batch holds."""
    return next((one for one in (IMAGE, AUDIO) if one.key in batch), TEXT)


def tower_config(config: Any) -> Any:
    """The part of a configuration that describes the blocks that are run (of CLIP, the image tower's)."""
    vision = getattr(config, "vision_config", None)
    return config.get_text_config() if vision is None else vision


def tower_of_clip(config: Any) -> bool:
    """Whether this is CLIP or its image tower alone, of which the image tower is run."""
    return config.model_type in ("clip", "clip_vision_model")


def clip_config(config: Any, **settings: Any) -> Any:
    """The configuration of a classifier on CLIP's image tower, from CLIP's or the tower's own."""
    import transformers

    vision = getattr(config, "vision_config", config)
    made = transformers.CLIPConfig(vision_config=vision.to_dict())
    for name, value in settings.items():
        setattr(made, name, value)
    return made


@cache
def clip_class(name: str) -> Any:
    """CLIP's image tower (`CLIPVisionModel`) or the classifier on it, which here know where the tower is.

    transformers calls it `clip.` there, a name that none of its tensors has, so that an image tower stored alone would
    not be found and head and backbone could not be told apart.
    """
    import transformers

    return type(name, (getattr(transformers, name),), {"base_model_prefix": "vision_model"})
