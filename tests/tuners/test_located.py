"""One place of the base: found by its exact path on several architectures, and nothing else trains."""

import pytest
import torch
from tests.conftest import make_tokenizer, save

from pairtune import registry
from pairtune.errors import InputError
from pairtune.pair.base import Base
from pairtune.tuners.located import parameters_at, usual_place


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A decoder of 12 blocks, so that block 1 begins as blocks 10 and 11 do."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer, sizes = make_tokenizer(), {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=12, bos_token_id=1, eos_token_id=2, **sizes)
    torch.manual_seed(0)
    return Base.load(save(tmp_path_factory.mktemp("deep"), LlamaForCausalLM(config), tokenizer))


def other(folder, config, model):
    """A base of another architecture, with random weights."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    return Base.load(save(folder, model(config(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2)), tokenizer))


def test_a_block_is_named_by_its_whole_number(deep):
    assert parameters_at(deep, "1:mlp.down_proj") == ["model.layers.1.mlp.down_proj.weight"]
    whole = parameters_at(deep, "1")
    assert len(whole) == 9 and all(name.startswith("model.layers.1.") for name in whole)
    assert parameters_at(deep, " 11:mlp") == [f"model.layers.11.mlp.{p}_proj.weight" for p in ("gate", "up", "down")]


def test_only_this_place_trains_and_the_delta_holds_no_more(deep):
    tuner = registry.build("tuners", "located", {"at": "10:self_attn.o_proj"})
    installed = tuner.install(deep, deep.model)
    assert [name for name, _ in installed.trainable()] == ["model.layers.10.self_attn.o_proj.weight"]
    assert list(tuner.extract(installed)) == ["model.layers.10.self_attn.o_proj.weight"]
    assert installed.first_changed() == 10
    installed.off()


def test_without_a_name_it_is_the_way_out_of_a_late_feed_forward_part(deep, tmp_path):
    assert usual_place(deep) == "8:mlp.down_proj"
    from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, OPTConfig, OPTForCausalLM

    def gpt2(**own):
        return GPT2Config(n_embd=8, n_layer=3, n_head=2, n_positions=32, **own)

    def neox(**own):
        sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
        return GPTNeoXConfig(**sizes, **own)

    def opt(**own):
        sizes = {"hidden_size": 8, "ffn_dim": 12, "num_hidden_layers": 4, "num_attention_heads": 2}
        return OPTConfig(word_embed_proj_dim=8, max_position_embeddings=32, **sizes, **own)

    first = other(tmp_path / "gpt2", gpt2, GPT2LMHeadModel)
    assert usual_place(first) == "2:mlp.c_proj"
    assert parameters_at(first, "2:mlp.c_proj") == [f"transformer.h.2.mlp.c_proj.{w}" for w in ("weight", "bias")]
    assert usual_place(other(tmp_path / "neox", neox, GPTNeoXForCausalLM)) == "1:mlp.dense_4h_to_h"
    assert usual_place(other(tmp_path / "opt", opt, OPTForCausalLM)) == "2:fc2"


@pytest.mark.parametrize(
    "at, message",
    [
        ("12:mlp", "has the blocks 0 to 11, not 12"),
        ("mlp.down_proj", "expected block and module, as 6:mlp.down_proj"),
        ("3:", "expected block and module"),
        ("3:mlp.down", "has no module 'mlp.down'; did you mean mlp.down_proj"),
        ("3:xyz", r"has no module 'xyz' \(it has self_attn.q_proj"),
        ("3:mlp.act_fn", "mlp.act_fn of block 3 has no parameters"),
    ],
)
def test_a_place_that_is_not_there_is_refused_with_the_nearest(deep, at, message):
    with pytest.raises(InputError, match=message):
        parameters_at(deep, at)
