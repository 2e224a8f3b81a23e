"""Adapters of unusual kinds: initialised from the base, stacked, DoRA, prompts, on a base in four bits."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from tests.tuners.test_peft import IDS, install, load, logits, train

from pairtune import registry
from pairtune.errors import ConfigError, InputError
from pairtune.pair.base import Base
from pairtune.pair.delta import Delta
from pairtune.pair.pair import Layer, Pair
from pairtune.tuners.lora import LoRA
from pairtune.tuners.peft import Peft


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("model", ["tiny_llama", "tiny_bert"])
def test_initialisers_from_the_base_leave_it_whole_and_are_stored_at_twice_the_rank(init, model, request, tmp_path):
    folder = request.getfixturevalue(model)
    alone = logits(load(folder).model)
    tuner = LoRA(r=4, alpha=8, init=init)
    base, installed = install(tuner, folder)
    before = base.checksum()
    assert "identity_at_start" in installed.provides
    assert torch.equal(logits(installed.model), alone)
    train(installed)
    tuned = logits(installed.model)
    installed.off()
    assert torch.equal(logits(base.model), alone) and base.checksum() == before == load(folder).checksum()
    installed.on()
    installed.write(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == 8 and config["init_lora_weights"] is True
    assert torch.allclose(logits(PeftModel.from_pretrained(load(folder).model, tmp_path)), tuned, atol=1e-5)
    # What trains equals the papers' form: the residual matrix with a plain adapter on it.
    layer = installed.layers[0]
    name = installed.adapter
    a, b, s = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    a0, b0 = (f[name + "_initial"].weight for f in (layer.lora_A, layer.lora_B))
    x = torch.randn(3, a.shape[1])
    residual = layer.get_base_layer().weight.double() - s * b0.double() @ a0.double()
    expected = x.double() @ (residual + s * b.double() @ a.double()).T
    if layer.get_base_layer().bias is not None:
        expected = expected + layer.get_base_layer().bias.double()
    assert torch.allclose(layer(x).double(), expected, atol=1e-5)


def test_dora_does_not_start_from_the_base_s_factors():
    with pytest.raises(ConfigError, match="dora"):
        LoRA(dora=True, init="pissa")


def test_two_adapters_stack_and_each_goes_off_alone(tiny_bert):
    base = load(tiny_bert)
    alone = logits(base.model)
    pair = Pair(base)
    for seed, tuner in enumerate([LoRA(r=4), Peft(type="ia3"), LoRA(r=2, targets=["query"])]):
        torch.manual_seed(seed)
        below = logits(pair.model)
        installed = tuner.install(base, pair.model)
        pair.push(Layer(installed, lambda: Delta({})))
        assert torch.equal(logits(pair.model), below)
        assert {id(p) for p in pair.model.parameters() if p.requires_grad} == {id(p) for _, p in pair.trainable()}
        train(installed)
        with pair.reference():
            assert torch.equal(logits(pair.model), below)
        with pair.off():
            assert torch.equal(logits(pair.model), alone)
        assert not torch.equal(logits(pair.model), below)


def test_dora_and_conv1d_and_embeddings_merge(tiny_llama, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    from pairtune.pair.apply import install_delta

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=128, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    for path in tiny_llama.glob("tokenizer*"):
        shutil.copy(path, tmp_path / "gpt2")
    for folder, tuner in [
        (tiny_llama, LoRA(r=4, dora=True)),
        (tmp_path / "gpt2", LoRA(r=4)),
        (tmp_path / "gpt2", LoRA(r=4, dora=True)),
        (tmp_path / "gpt2", LoRA(r=4, init="pissa")),
        (tmp_path / "gpt2", Peft(type="lora", target_modules=["wpe"])),
    ]:
        _, installed = install(tuner, folder)
        train(installed, lr=0.1)
        fresh = load(folder)
        merged = install_delta(fresh, tuner.extract(installed))
        assert torch.allclose(logits(merged.model), logits(installed.model), atol=2e-5), tuner.settings


def test_a_prompt_does_not_lengthen_what_is_seen_outside(tiny_llama):
    _, installed = install(Peft(type="prompt_tuning", num_virtual_tokens=3), tiny_llama)
    assert logits(installed.model).shape[:2] == IDS.shape


def test_a_base_in_four_bits_takes_an_adapter(tiny_llama, tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=128, **wide)).save_pretrained(tmp_path / "wide")
    for path in tiny_llama.glob("tokenizer*"):
        shutil.copy(path, tmp_path / "wide")
    tiny_llama = tmp_path / "wide"  # the kernels want multiples of 64
    base = Base.load(tiny_llama, quantize="4bit")
    alone = logits(base.model)
    torch.manual_seed(0)
    installed = LoRA(r=4).install(base, base.model)
    assert torch.equal(logits(installed.model), alone)
    train(installed)
    tuned = logits(installed.model)
    assert tuned.isfinite().all() and not torch.equal(tuned, alone)
    installed.off()
    assert torch.equal(logits(base.model), alone)
    installed.on()
    installed.write(tmp_path)
    again = Base.load(tiny_llama, quantize="4bit")
    assert torch.equal(logits(LoRA().restore(again, again.model, tmp_path).model), tuned)
    full = registry.build("tuners", "full")
    with pytest.raises(InputError, match="quantised"):
        full.install(again, again.model)
