"""Bases that read images or sound: the right class, head and processor from a local folder, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pairtune.errors import BaseMismatch, FormatError, InputError
from pairtune.pair.base import Base
from pairtune.pair.loader import from_checkpoints
from pairtune.pair.modality import TEXT, modality_of
from pairtune.pair.positions import examples
from pairtune.pair.processor import resampled

LABELS = ["a", "b", "c"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}


def saved(folder, model, processor=None):
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    model.save_pretrained(folder)
    (processor or ViTImageProcessorPil(size={"height": 16, "width": 16})).save_pretrained(folder)
    return folder


def models(kind):
    import transformers as hf

    torch.manual_seed(0)
    tower = hf.CLIPVisionConfig(**SMALL, intermediate_size=32)
    words = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return {
        "vit": lambda: hf.ViTModel(hf.ViTConfig(**SMALL, intermediate_size=32)),
        "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**SMALL, mlp_ratio=2)),
        "clip": lambda: hf.CLIPModel(
            hf.CLIPConfig(text_config={**words, "vocab_size": 20}, vision_config=tower.to_dict(), projection_dim=8)
        ),
        "clip tower": lambda: hf.CLIPVisionModel(tower),
    }[kind]()


@pytest.mark.parametrize("kind", ["vit", "dinov2", "clip", "clip tower"])
def test_image_towers_get_a_head_and_are_known_without_it(tmp_path, kind):
    folder = saved(tmp_path, models(kind))
    base = Base.load(folder, task="classification", labels=LABELS)
    assert base.new_names == {"classifier.weight", "classifier.bias"}
    assert (base.family, base.modality.name, base.view) == ("encoder", "image", "labels")
    assert (base.hidden_size, len(base.blocks), base.tokenizer.positions) == (16, 3, 17)
    bare = Base.load(folder)
    assert bare.view is None and bare.fingerprint.weights == base.fingerprint.weights
    batch = examples(base, 2)
    tower = base.model.base_model
    assert tower is not base.model
    with torch.no_grad():
        assert base.model(pixel_values=batch["pixel_values"]).logits.shape == (2, 3)
        # the same tower by transformers itself, from the same folder
        from transformers import AutoModel

        whole = AutoModel.from_pretrained(folder)
        peer = getattr(whole, "vision_model", whole)
        same = peer(pixel_values=batch["pixel_values"]).last_hidden_state
        assert torch.equal(tower(pixel_values=batch["pixel_values"]).last_hidden_state, same)


def test_spectrogram_models(tiny_ast):
    base = Base.load(tiny_ast, task="classification", labels=LABELS)
    assert (base.modality.name, base.view, base.tokenizer.positions) == ("audio", "labels", 10)
    assert all(name.startswith("classifier.") for name in base.new_names)
    assert base.model(input_values=examples(base, 2)["input_values"]).logits.shape == (2, 3)


def test_a_checkpoint_with_a_part_missing_is_refused(tmp_path, tiny_vit):
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_vit, tmp_path / "part")
    tensors = load_file(tmp_path / "part" / "model.safetensors")
    gone = sorted(name for name in tensors if "pooler" not in name)[3]
    save_file(
        {k: v for k, v in tensors.items() if k != gone}, tmp_path / "part" / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(FormatError, match="1 missing from the checkpoint"):
        Base.load(tmp_path / "part", task="classification", labels=LABELS)


def test_images_are_prepared_as_transformers_own_class_does(tiny_vit):
    from transformers import AutoImageProcessor

    base = Base.load(tiny_vit)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 23, 3), dtype=np.uint8)
    peer = AutoImageProcessor.from_pretrained(tiny_vit, backend="pil")(Image.fromarray(pixels), return_tensors="np")
    assert np.array_equal(base.tokenizer([Image.fromarray(pixels)])[0], peer["pixel_values"][0])
    by_hand = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BILINEAR), np.float64)
    assert (
        np.abs(base.tokenizer([Image.fromarray(pixels)])[0] - (by_hand / 255 - 0.5).transpose(2, 0, 1) / 0.5).max()
        < 1e-5
    )
    grey = base.tokenizer([Image.fromarray(pixels[..., 0])])[0]
    assert np.array_equal(grey[0], grey[2]) and grey.shape == (3, 16, 16)
    clear = np.concatenate([pixels, np.full((40, 23, 1), 7, np.uint8)], axis=2)
    assert np.array_equal(base.tokenizer([Image.fromarray(clear)])[0], peer["pixel_values"][0])


def test_sound_is_brought_to_one_channel_and_the_models_rate(tiny_ast):
    from transformers import ASTFeatureExtractor

    base = Base.load(tiny_ast)
    wave = np.sin(np.arange(4000) / 9).astype(np.float32)
    peer = ASTFeatureExtractor.from_pretrained(tiny_ast)(wave, sampling_rate=8000, return_tensors="np")["input_values"]
    assert np.allclose(base.tokenizer([(wave, 8000)])[0], peer[0], atol=1e-6)
    both = np.stack([wave * 2, wave * 0], axis=1)
    assert np.allclose(base.tokenizer([(both, 8000)])[0], peer[0], atol=1e-4)
    assert base.tokenizer([(wave[:10], 8000)])[0].shape == (32, 16)  # shorter than a window
    time = np.arange(44100) / 44100
    low = resampled(np.sin(2 * np.pi * 440 * time), 44100, 8000)
    assert len(low) == 8000
    assert np.abs(low[800:-800] - np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)[800:-800]).max() < 2e-3


def test_a_processor_that_does_not_fit_or_is_missing(tmp_path, tiny_vit):
    shutil.copytree(tiny_vit, tmp_path / "vit")
    about = tmp_path / "vit" / "preprocessor_config.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "size": {"height": 20, "width": 20}}))
    with pytest.raises(FormatError, match=r"its processor makes images of the shape \[3, 20, 20\], which the model"):
        Base.load(tmp_path / "vit")
    about.unlink()
    with pytest.raises(FormatError, match="there is no preprocessor_config.json"):
        Base.load(tmp_path / "vit")


def test_what_is_not_supported_says_so(tmp_path):
    from transformers import ResNetConfig, ResNetModel, Wav2Vec2Config

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    with pytest.raises(InputError, match="resnet has no transformer blocks"):
        Base.load(saved(tmp_path, ResNetModel(config)))
    with pytest.raises(InputError, match="wav2vec2 reads the sound wave itself"):
        modality_of(Wav2Vec2Config())


def test_text_models_read_text(tiny_llama, tiny_bert, tiny_t5):
    from transformers import AutoConfig

    for folder in (tiny_llama, tiny_bert, tiny_t5):
        assert modality_of(AutoConfig.from_pretrained(folder)) is TEXT


def test_two_checkpoints_make_a_pair_if_they_see_alike(tmp_path, tiny_vit):
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(tiny_vit, num_labels=3, id2label=dict(enumerate(LABELS)))
    with torch.no_grad():
        model.vit.layernorm.weight.add_(0.5)
    model.save_pretrained(tmp_path / "tuned")
    shutil.copy(tiny_vit / "preprocessor_config.json", tmp_path / "tuned")
    pair = from_checkpoints(str(tiny_vit), tmp_path / "tuned")
    batch = examples(pair.base, 3)
    with torch.no_grad():
        assert torch.allclose(pair.forward(batch).logits, model(batch["pixel_values"]).logits, atol=1e-6)
    about = tmp_path / "tuned" / "preprocessor_config.json"
    about.write_text(about.read_text().replace("0.5", "0.4"))
    with pytest.raises(BaseMismatch, match="prepares images in another way"):
        from_checkpoints(str(tiny_vit), tmp_path / "tuned")
