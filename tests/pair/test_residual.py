"""Writers and readers of the residual stream on real architectures, and what norms make of a direction."""

from types import SimpleNamespace

import pytest
import torch
import transformers

from pairtune.errors import InputError
from pairtune.pair.base import Base
from pairtune.pair.modality import TEXT
from pairtune.pair.names import blocks
from pairtune.pair.residual import Place, gains, stream_of

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 20}
LLAMA = {**SMALL, "num_key_value_heads": 1, "head_dim": 8}
CONFIGS = {
    "bert": transformers.BertConfig(**SMALL),
    "llama": transformers.LlamaConfig(**LLAMA),
    "gpt2": transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=20),
    "neox": transformers.GPTNeoXConfig(**SMALL),
    "gemma": transformers.GemmaConfig(**LLAMA),
    "olmo2": transformers.Olmo2Config(**LLAMA, pad_token_id=0),
}


def base_of(name):
    """A base with random norms and no checkpoint: what `stream_of` looks at."""
    torch.manual_seed(0)
    kind = transformers.AutoModelForCausalLM if name != "bert" else transformers.AutoModelForSequenceClassification
    model = kind.from_config(CONFIGS[name]).eval()
    for parameter_name, parameter in model.named_parameters():
        if "norm" in parameter_name.lower() or "ln_" in parameter_name:
            torch.nn.init.normal_(parameter, 1.0 if name != "gemma" else 0.0, 0.3)
    family = "encoder" if name == "bert" else "causal"
    return SimpleNamespace(
        model=model, pristine=model, blocks=blocks(model), hidden_size=16, family=family, modality=TEXT, source=name,
        vocabulary_rows=20, device=torch.device("cpu"),
    )  # fmt: skip


# Architecture → (reader, its norm), (writer, its norm), whether the norms take the mean off, what reads behind the
# blocks and through which norm.
EXPECTED = {
    "llama": (
        ("model.layers.1.mlp.up_proj", "model.layers.1.post_attention_layernorm"),
        ("model.layers.1.mlp.down_proj", None), False, ("lm_head", "model.norm"),
    ),
    "gpt2": (
        ("transformer.h.1.attn.c_attn", "transformer.h.1.ln_1"), ("transformer.h.1.attn.c_proj", None), True,
        ("lm_head", "transformer.ln_f"),
    ),
    "neox": (
        ("gpt_neox.layers.0.mlp.dense_h_to_4h", "gpt_neox.layers.0.post_attention_layernorm"),
        ("gpt_neox.layers.0.attention.dense", None), True, ("lm_head", "gpt_neox.final_layer_norm"),
    ),
    "bert": (
        ("bert.encoder.layer.1.intermediate.dense", None),
        ("bert.encoder.layer.1.attention.output.dense", "bert.encoder.layer.1.attention.output.LayerNorm"), True,
        ("bert.pooler.dense", None),
    ),
    "gemma": (
        ("model.layers.0.self_attn.q_proj", "model.layers.0.input_layernorm"),
        ("model.layers.0.self_attn.o_proj", None), False, ("lm_head", "model.norm"),
    ),
    "olmo2": (
        ("model.layers.1.mlp.gate_proj", None),
        ("model.layers.1.mlp.down_proj", "model.layers.1.post_feedforward_layernorm"), False, ("lm_head", "model.norm"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_writers_and_readers_are_found_with_the_norm_between_them_and_the_stream(name):
    base = base_of(name)
    stream = stream_of(base)
    (reader, before), (writer, after), centred, (head, last) = EXPECTED[name]
    assert len(stream.writers) == 4 and not stream.writers.keys() & stream.readers.keys()
    for place, norm in (
        (stream.readers[reader], before),
        (stream.writers[writer], after),
        (stream.readers[head], last),
    ):
        if norm is None:
            assert place.scale is None
            continue
        weight = base.model.get_submodule(norm).weight + (1.0 if name == "gemma" else 0.0)
        torch.testing.assert_close(place.scale, weight.detach(), rtol=1e-3, atol=1e-3)
        assert place.centred == centred
    assert stream.writers[writer].turned == (name == "gpt2")
    assert [place.block for place in stream.writers.values()] == [0, 0, 1, 1]
    assert stream.readers[head].block == 2 and all(place.block == -1 for place in stream.embeddings.values())
    assert all((place.scale is not None) == (name == "bert") for place in stream.embeddings.values())


def test_a_head_on_what_a_pooler_made_does_not_read_the_stream():
    assert "classifier" not in stream_of(base_of("bert")).readers


def block_output(base, number):
    kept = {}
    handle = base.blocks[number][1].register_forward_hook(
        lambda _m, _a, out: kept.update(h=out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        base.model(input_ids=torch.tensor([[3, 5, 7, 9]]))
    handle.remove()
    return kept["h"][0]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_change_that_is_orthogonal_to_what_a_writer_meets_leaves_the_stream_alone_along_the_direction(name):
    base = base_of(name)
    last = list(stream_of(base).writers.values())[-1]
    direction = torch.randn(16, 1, generator=torch.Generator().manual_seed(1))
    q = torch.linalg.qr(last.write(direction)).Q
    before = block_output(base, 1)
    module = base.model.get_submodule(last.name)
    change = torch.randn(16, module.weight.numel() // 16, generator=torch.Generator().manual_seed(2))
    change -= q @ (q.T @ change)
    with torch.no_grad():
        module.weight += change.T if last.turned else change
    after = block_output(base, 1)
    assert (after - before).norm() > 0.05
    torch.testing.assert_close(after @ direction, before @ direction, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("centred", [True, False])
def test_reading_and_writing_through_a_norm_are_adjoint_to_what_the_norm_does(centred):
    norm = torch.nn.LayerNorm(16, dtype=torch.float64) if centred else torch.nn.RMSNorm(16, dtype=torch.float64)
    torch.nn.init.normal_(norm.weight)
    scale, found = gains(norm, 16)
    assert found == centred
    torch.testing.assert_close(scale.double(), norm.weight.detach(), rtol=1e-4, atol=1e-4)
    place = Place("x", 0, norm.weight.detach(), centred)
    x, u = torch.randn(16, 3, dtype=torch.float64), torch.randn(16, 1, dtype=torch.float64)
    size = (x - x.mean(0) * centred).square().mean(0).sqrt()
    passed = norm(x.T).T * size  # a layer norm's bias is zero here
    # An output along u behind the norm is the input along write(u); a reader a of the norm's output reads reads(a).
    torch.testing.assert_close(u.T @ passed, place.write(u).T @ x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(place.writes(x), passed, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(place.reads(u).T @ x, u.T @ place.read(x), rtol=1e-9, atol=1e-9)


def test_an_encoder_decoder_has_two_streams(tiny_t5):
    with pytest.raises(InputError, match="two residual streams"):
        stream_of(Base.load(tiny_t5))
