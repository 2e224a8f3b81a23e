"""Adapters in the blocks: where they sit on real architectures, and what they compute, by the papers' equations."""

import pytest
import torch
import transformers
from torch import nn

from pairtune import registry
from pairtune.errors import InputError
from pairtune.pair.base import Base
from pairtune.pair.names import blocks
from pairtune.pair.sublayers import sublayers
from pairtune.tuners.phm import PHMBottleneck, PHMLinear, Rule

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
CONFIGS = {
    "bert": transformers.BertConfig(**SMALL, vocab_size=20),
    "llama": transformers.LlamaConfig(**SMALL, vocab_size=20),
    "gpt2": transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=20),
    "neox": transformers.GPTNeoXConfig(**SMALL, vocab_size=20),
    "opt": transformers.OPTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=24, word_embed_proj_dim=16, vocab_size=20
    ),
    "t5": transformers.T5Config(d_model=16, d_ff=24, d_kv=8, num_layers=2, num_heads=2, vocab_size=20),
    "bart": transformers.BartConfig(
        d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, vocab_size=20,
    ),
    "vit": transformers.ViTConfig(**SMALL, image_size=8, patch_size=4),
    "dinov2": transformers.Dinov2Config(**{**SMALL, "mlp_ratio": 2}, image_size=8, patch_size=4),
    "clip": transformers.CLIPVisionConfig(**SMALL, image_size=8, patch_size=4),
    "ast": transformers.ASTConfig(**SMALL, max_length=16, num_mel_bins=16),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_both_halves_of_a_block_are_found_on_every_architecture(name):
    model = transformers.AutoModel.from_config(CONFIGS[name])
    found = [sublayers(where, block) for where, block in blocks(model)]
    assert len(found) >= 2
    names = {id(module): path for path, module in model.named_modules()}
    for one in found:
        assert any(word in names[id(one.attention_out)].rpartition(".")[0].lower() for word in ("att", "layer.0"))
        for module, width in ((one.ffn_in, (16, 24, 32, 64)), (one.ffn_out, (16,))):
            shape = next(module.parameters()).shape  # a Conv1D's is turned
            assert 16 in shape and any(size in width for size in shape)
        assert one.ffn_in is not one.ffn_out and one.norms
    outs = {id(one.ffn_out) for one in found} | {id(one.attention_out) for one in found}
    assert len(outs) == 2 * len(found)
    assert not any("encdec" in names[i].lower() or "encoder_attn" in names[i] for i in outs)


def test_a_mixture_of_experts_is_refused_by_the_name_of_its_block():
    config = transformers.MixtralConfig(**SMALL, num_key_value_heads=2, vocab_size=20, num_local_experts=2)
    where, block = blocks(transformers.AutoModel.from_config(config))[0]
    with pytest.raises(InputError, match=r"layers\.0.*mixtures of experts"):
        sublayers(where, block)


def test_a_layer_of_kronecker_products_is_their_sum():
    torch.manual_seed(0)
    rule = Rule(4)
    layer = PHMLinear(8, 12, 2, rule)
    kron = sum(torch.kron(rule.weight[i], layer.left[i] @ layer.right[i]) for i in range(4))
    assert torch.allclose(layer.weight(), kron, atol=1e-9)
    x = torch.randn(3, 8)
    nn.init.normal_(layer.bias)
    assert torch.allclose(layer(x), x @ kron + layer.bias, atol=1e-6)
    layer(x).sum().backward()
    assert rule.weight.grad is not None and rule.weight.grad.abs().max() > 0
    with torch.no_grad():
        before = layer(x)
        rule.weight.mul_(2)  # what was kept is of other weights now
        assert torch.allclose(layer(x) - layer.bias, 2 * (before - layer.bias), atol=1e-6)


def test_compacter_counts_as_published_for_t5_base():
    rule = Rule(4)
    adapter = PHMBottleneck(768, 24, 1, rule)
    assert sum(p.numel() for p in adapter.parameters()) == 2376
    norms, whole = 47_616, 222.9e6
    assert (48 * 2376 + 64 + norms) / whole == pytest.approx(0.00073, abs=5e-6)
    assert (24 * 2376 + 64 + norms) / whole == pytest.approx(0.00047, abs=5e-6)


def installed(name, settings, folder, **load):
    base = Base.load(folder, **load)
    tuner = registry.build("tuners", name, settings)
    return base, tuner, tuner.install(base, base.model)


def randomise(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)


def test_compacter_shares_one_factor_and_stores_it_once(tiny_bert):
    base, _, found = installed(
        "compacter", {"n": 2, "reduction": 4}, tiny_bert, task="classification", labels=["a", "b"]
    )
    state = found.state()
    assert [name for name in state if name.startswith("side.shared")] == ["side.shared.weight"]
    per_layer = sum(v.numel() for k, v in state.items() if k.startswith("side.blocks.0."))
    width, narrow, n = base.hidden_size, base.hidden_size // 4, 2
    assert per_layer == 2 * n * (width // n + narrow // n) + narrow + width


@pytest.mark.parametrize("reads", ["residual", "norm"])
def test_adaptformer_adds_a_scaled_branch_that_reads_where_it_says(tiny_llama, reads):
    base, _, found = installed("adaptformer", {"r": 3, "scale": 0.5, "reads": reads}, tiny_llama)
    side = found.model.side
    assert sum(p.numel() for p in side.parameters()) == len(base.blocks) * (
        2 * base.hidden_size * 3 + 3 + base.hidden_size
    )
    randomise(side)
    block = base.blocks[0][1]
    seen = {}
    block.post_attention_layernorm.register_forward_hook(lambda _m, a, out: seen.update(stream=a[0], normed=out))
    block.mlp.down_proj.register_forward_hook(lambda _m, a, out: seen.update(changed=out, inner=a[0]))
    with torch.no_grad():
        found.model(input_ids=torch.tensor([[1, 5, 9, 12]]))
        plain = seen["inner"] @ block.mlp.down_proj.weight.T
        u = seen["stream"] if reads == "residual" else seen["normed"]
        one = side.blocks[0]
        branch = torch.relu(u @ one.down.weight.T + one.down.bias) @ one.up.weight.T + one.up.bias
    assert torch.allclose(seen["changed"], plain + 0.5 * branch, atol=1e-5)


def test_adaptformer_normalises_the_features_of_a_new_head_and_keeps_their_statistics(tiny_bert, tmp_path):
    load = {"task": "classification", "labels": ["a", "b"]}
    base, tuner, found = installed("adaptformer", {"r": 3}, tiny_bert, **load)
    ids = torch.tensor([[1, 5, 9, 12], [1, 8, 30, 6], [1, 7, 3, 2]])
    found.model.side.train()
    found.model(input_ids=ids)
    found.model.side.eval()
    statistics = {k: v for k, v in found.state().items() if "head_norm" in k}
    assert sorted(statistics) == ["side.head_norm.running_mean", "side.head_norm.running_var"]
    assert statistics["side.head_norm.running_mean"].abs().max() > 0
    with torch.no_grad():
        expected = found.model(input_ids=ids).logits
    found.write(tmp_path)
    fresh = Base.load(tiny_bert, **load)
    with torch.no_grad():
        assert torch.equal(tuner.restore(fresh, fresh.model, tmp_path).model(input_ids=ids).logits, expected)
    found.model.side.train()
    found.model(input_ids=ids[:1])  # a batch of one row is no error
    assert base.new_names


@pytest.mark.parametrize("form", ["sequential", "parallel"])
def test_an_adapter_sits_behind_or_beside_a_half(tiny_llama, form):
    base, _, found = installed("adapter", {"reduction": 4, "form": form, "where": "both", "norms": False}, tiny_llama)
    side = found.model.side
    randomise(side)
    block = base.blocks[1][1]
    seen = {}
    block.self_attn.q_proj.register_forward_pre_hook(lambda _m, a: seen.update(u=a[0]))
    block.self_attn.o_proj.register_forward_hook(lambda _m, a, out: seen.update(out=out, inner=a[0]))
    with torch.no_grad():
        found.model(input_ids=torch.tensor([[1, 5, 9, 12]]))
        f = seen["inner"] @ block.self_attn.o_proj.weight.T
        one = side.blocks[2]  # two a block
        branch = one(f if form == "sequential" else seen["u"])
    assert torch.allclose(seen["out"], f + branch, atol=1e-5)


def test_a_convolution_sees_neighbours_and_no_padding(tiny_bert):
    load = {"task": "classification", "labels": ["a", "b"]}
    base, _, found = installed("conformer-adapter", {"reduction": 4, "kernel": 3}, tiny_bert, **load)
    randomise(found.model.side)
    short = torch.tensor([[1, 5, 9, 12]])
    long = torch.cat([short, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    with torch.no_grad():
        alone = found.model(input_ids=short, attention_mask=torch.ones_like(short)).logits
        padded = found.model(input_ids=long, attention_mask=(long != 0).long()).logits
        adapter = found.model.side.blocks[0]
        u = torch.randn(1, 6, base.hidden_size)
        moved = u.clone()
        moved[0, 2] += 1
        difference = (adapter(u, None) - adapter(moved, None)).abs().sum(-1)[0]
    assert torch.allclose(alone, padded, atol=1e-5)
    assert (difference > 0).tolist() == [False, True, True, True, False, False]


def test_a_residual_connection_is_where_it_is_asked_for(tiny_bert):
    load = {"task": "classification", "labels": ["a", "b"]}
    for form, residual in (("parallel", True), ("parallel", None), ("sequential", False), ("sequential", None)):
        settings = {"reduction": 4, "kernel": 3, "form": form, "residual": residual}
        base, _, found = installed("conformer-adapter", settings, tiny_bert, **load)
        assert ("identity_at_start" in found.provides) == (residual is None)
        block, seen = base.blocks[0][1], {}
        block.intermediate.dense.register_forward_pre_hook(lambda _m, a, seen=seen: seen.update(u=a[0]))
        block.output.dense.register_forward_hook(lambda _m, a, out, seen=seen: seen.update(inner=a[0], out=out))
        with torch.no_grad():
            found.model(input_ids=torch.tensor([[1, 5, 9, 12]]))
            f = block.output.dense.forward(seen["inner"])  # without hooks; the adapters themselves are zero yet
        expected = f if residual is None else f + seen["u"] if form == "parallel" else torch.zeros_like(f)
        assert torch.allclose(seen["out"], expected, atol=1e-6), form


def test_wrong_settings_are_one_sentence(tiny_bert, tiny_llama):
    load = {"task": "classification", "labels": ["a", "b"]}
    with pytest.raises(InputError, match="must divide the width"):
        installed("compacter", {"n": 3}, tiny_bert, **load)
    with pytest.raises(InputError, match="take an odd number"):
        installed("conformer-adapter", {"kernel": 4}, tiny_bert, **load)
