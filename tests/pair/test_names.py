"""Names on disk and in memory: prefixes, ties, fused experts; and which modules are blocks."""

import pytest
import torch
from safetensors.torch import load_file

from pairtune.errors import DeltaMismatch
from pairtune.pair.names import Names, blocks


def test_an_encoder_under_a_head_keeps_the_bare_names(tiny_bert):
    from transformers import AutoModelForSequenceClassification

    stored = load_file(tiny_bert / "model.safetensors")
    names = Names(AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=3), stored)
    assert names.memory("embeddings.word_embeddings.weight") == "bert.embeddings.word_embeddings.weight"
    assert names.memory("bert.embeddings.word_embeddings.weight") == "bert.embeddings.word_embeddings.weight"
    assert set(stored) <= set(names.on_disk)
    assert names.memory("nothing") is None


def test_tied_tensors_have_one_name(tiny_llama, tiny_t5):
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    llama = Names(AutoModelForCausalLM.from_pretrained(tiny_llama))
    assert llama.disk("lm_head.weight") == ["model.embed_tokens.weight"]
    t5 = Names(AutoModelForSeq2SeqLM.from_pretrained(tiny_t5))
    assert t5.disk("decoder.embed_tokens.weight") == ["shared.weight"]


def test_fused_experts_split_and_fuse_exactly(tmp_path):
    from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
        vocab_size=20,
    )
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    names = Names(model, stored)
    assert names.on_disk == sorted(stored)
    assert any(names.is_fused(name) for name, _ in model.named_parameters())
    disk = names.to_disk(dict(model.named_parameters()))
    assert all(torch.equal(disk[name], stored[name]) for name in stored)
    memory = names.to_memory(stored)
    assert all(torch.equal(memory[name], p) for name, p in model.named_parameters())
    with pytest.raises(DeltaMismatch, match="lacks"):
        names.to_memory({k: v for k, v in stored.items() if ".experts.0." not in k})


def test_blocks_in_the_order_in_which_they_run(tiny_llama, tiny_t5, tiny_bert):
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    found = [
        [n for n, _ in blocks(c.from_pretrained(p))]
        for c, p in ((AutoModelForCausalLM, tiny_llama), (AutoModelForSeq2SeqLM, tiny_t5), (AutoModel, tiny_bert))
    ]
    assert found[0] == [f"model.layers.{i}" for i in range(4)]
    assert found[1] == ["encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"]
    assert found[2] == [f"encoder.layer.{i}" for i in range(3)]
