"""Quantised side tuning: its equations, what it keeps for the backward, its cache, four bits, and what it refuses."""

import shutil

import pytest
import torch
from transformers import StaticCache

from pairtune.errors import InputError
from pairtune.objectives.token_nll import next_tokens, summed_nll
from pairtune.pair.base import Base
from pairtune.pair.logprobs import token_log_probs
from pairtune.training.memory import SavedBytes
from pairtune.tuners.lora import LoRA
from pairtune.tuners.qst import QST

DOWN = ["adapter", "lora", "linear", "max-pool", "avg-pool"]
IDS = torch.tensor([[1, 5, 9, 12, 7, 4], [1, 8, 30, 6, 0, 0]])
BATCH = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}


def install(folder, moved=True, **settings):
    base = Base.load(folder, task="classification", labels=["a", "b", "c"])
    torch.manual_seed(0)
    installed = QST(**{"reduction": 4, "rank": 4, **settings}).install(base, base.model)
    if moved:
        with torch.no_grad():
            for _, parameter in installed.trainable():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return base, installed


def down_by_hand(kind, p, i, h):
    if kind in ("max-pool", "avg-pool"):
        groups = h.reshape(*h.shape[:-1], 4, -1)
        return groups.max(-1).values if kind == "max-pool" else groups.mean(-1)
    if kind == "linear":
        return h @ p[f"down.{i}.weight"].T + p[f"down.{i}.bias"]
    first = h @ p[f"down.{i}.0.weight"].T
    if kind == "lora":
        return first @ p[f"down.{i}.1.weight"].T
    inner = torch.nn.functional.silu(first) @ p[f"down.{i}.2.weight"].T
    return torch.nn.functional.layer_norm(inner, inner.shape[-1:], p[f"down.{i}.3.weight"], p[f"down.{i}.3.bias"])


@pytest.mark.parametrize("kind", DOWN)
def test_the_logits_are_those_of_the_equations(kind, tiny_llama):
    base, installed = install(tiny_llama, down=kind)
    ids = IDS[:1]
    with torch.no_grad():
        found = installed.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        installed.off()
        hidden, last = [], {}
        first, *_ = blocks = [block for _, block in base.blocks]
        hooks = [
            first.register_forward_pre_hook(
                lambda _m, a, k: hidden.append(a[0] if a else k["hidden_states"]), with_kwargs=True
            )
        ]
        hooks += [b.register_forward_hook(lambda _m, _a, o: hidden.append(o)) for b in blocks]
        hooks.append(base.model.lm_head.register_forward_pre_hook(lambda _m, a: last.update(h=a[0])))
        base.model(input_ids=ids)
        for hook in hooks:
            hook.remove()
        side = installed.model.side
        p = {name: value.detach() for name, value in side.named_parameters()}
        q = down_by_hand(kind, p, 0, hidden[0])
        length = torch.arange(ids.shape[1])[None]
        places = side.net.rotary_emb(q, position_ids=length)
        mask = torch.full((6, 6), float("-inf")).triu(1)[None, None]
        for i, block in enumerate(side.net.layers):
            z = torch.sigmoid(p["gates"][i])
            block._forward_pre_hooks.clear()
            q = block(
                (1 - z) * down_by_hand(kind, p, i, hidden[i + 1]) + z * q,
                attention_mask=mask,
                position_embeddings=places,
            )
        wide = side.net.norm(q) @ p["up.weight"].T + p["up.bias"]
        expected = base.model.lm_head((1 - p["mix"]) * wide + p["mix"] * last["h"])
    assert torch.allclose(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_bert"])
def test_it_starts_at_the_base_and_no_graph_is_kept_for_it(model, request):
    folder = request.getfixturevalue(model)
    base, installed = install(folder, moved=False)
    with torch.no_grad():
        alone = Base.load(folder, task="classification", labels=["a", "b", "c"]).model(**BATCH).logits
        assert torch.equal(installed.model(**BATCH).logits, alone)
    kept = []
    inner = base.blocks[:-1] if base.family == "encoder" else base.blocks
    hooks = [b.register_forward_hook(lambda _m, _a, o: kept.append(o)) for _, b in inner]
    base.model.get_input_embeddings().register_forward_hook(lambda _m, _a, o: o.requires_grad_())  # as PEFT does
    for _, parameter in installed.trainable():
        torch.nn.init.normal_(parameter, std=0.3)
    installed.model(**BATCH).logits.square().mean().backward()
    for hook in hooks:
        hook.remove()
    assert kept and all(
        p.grad is None for p in base.parameters.values() if id(p) not in {id(q) for _, q in installed.trainable()}
    )
    assert all(
        p.grad is not None and bool(p.grad.any())
        for name, p in installed.trainable()
        if "k_proj.bias" not in name and "key.bias" not in name
    )


def test_the_released_gate_begins_elsewhere(tiny_llama):
    base, installed = install(tiny_llama, moved=False, gate="sigmoid")
    assert "identity_at_start" not in installed.provides
    with torch.no_grad():
        found = installed.model(**BATCH).logits
        installed.off()
        assert not torch.allclose(found, base.model(**BATCH).logits, atol=1e-3)


def test_generation_with_one_cache_equals_full_forwards(tiny_llama):
    base, installed = install(tiny_llama)
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    quick = base.model.generate(**BATCH, use_cache=True, return_dict_in_generate=True, **settings)
    assert len(quick.past_key_values.layers) == 2 * len(base.blocks)
    assert quick.past_key_values.layers[-1].keys.shape[-1] == installed.model.side.net.config.head_dim
    assert torch.equal(quick.sequences, base.model.generate(**BATCH, use_cache=False, **settings))
    beams = {**settings, "num_beams": 3, "max_new_tokens": 5}
    assert torch.equal(base.model.generate(**BATCH, **beams), base.model.generate(**BATCH, use_cache=False, **beams))
    installed.off()
    plain = base.model.generate(**BATCH, return_dict_in_generate=True, **settings)
    assert len(plain.past_key_values.layers) == len(base.blocks)
    assert not torch.equal(plain.sequences, quick.sequences)


def test_scores_taken_in_slices_are_those_of_the_whole_logits(tiny_llama):
    base, installed = install(tiny_llama)
    targets = IDS.masked_fill(IDS == 0, -100)
    with torch.no_grad():
        sliced = token_log_probs(installed.model, base.model, BATCH, targets)
        log_p = installed.model(**BATCH).logits.log_softmax(-1)
    expected = log_p[:, :-1].gather(-1, IDS[:, 1:, None]).squeeze(-1).masked_fill(targets[:, 1:] < 0, 0.0)
    assert torch.allclose(sliced[:, 1:], expected, atol=1e-5)


def saved(model, base):
    ids = torch.randint(4, 60, (4, 48))
    with SavedBytes(base.model) as counted:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        loss = summed_nll(logits, next_tokens(ids))
    loss.backward()
    return counted.bytes


def test_pools_keep_least_and_all_keep_less_than_lora(tiny_llama):
    kept = {}
    for kind in DOWN:
        base, installed = install(tiny_llama, down=kind, moved=False)
        kept[kind] = saved(installed.model, base)
    base = Base.load(tiny_llama)
    lora = saved(LoRA(r=4).install(base, base.model).model, base)
    assert max(kept["max-pool"], kept["avg-pool"]) < min(kept["adapter"], kept["linear"], kept["lora"])
    assert max(kept.values()) < 0.6 * lora


@pytest.fixture
def wide(tiny_llama, tmp_path):
    """A base wide enough for four bits."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=128, initializer_range=0.1, **shape)).save_pretrained(tmp_path / "wide")
    for path in tiny_llama.glob("tokenizer*"):
        shutil.copy(path, tmp_path / "wide")
    return tmp_path / "wide"


NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def test_four_bits_are_the_nearest_of_sixteen_codes_in_blocks_of_64(wide):
    functional = pytest.importorskip("bitsandbytes.functional")
    base, plain = Base.load(wide, quantize="4bit"), Base.load(wide)
    layer, original = base.model.model.layers[0].mlp.up_proj, plain.model.model.layers[0].mlp.up_proj.weight
    found = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    groups = original.detach().reshape(-1, 64)
    largest = groups.abs().amax(1, keepdim=True)
    codes = torch.tensor(NF4)
    nearest = codes[((groups / largest).unsqueeze(-1) - codes).abs().argmin(-1)]
    expected = (nearest * largest).reshape(original.shape)
    assert torch.allclose(found, expected, atol=1e-6)
    stored = layer.weight.data.numel() * layer.weight.data.element_size() + 4 * layer.weight.quant_state.absmax.numel()
    assert 8 * stored / original.numel() == 4.5


def test_it_trains_beside_a_base_in_four_bits(wide, tmp_path):
    pytest.importorskip("bitsandbytes")
    base = Base.load(wide, quantize="4bit")
    installed = QST(reduction=4).install(base, base.model)
    with torch.no_grad():
        alone = Base.load(wide, quantize="4bit").model(**BATCH).logits
        assert torch.equal(installed.model(**BATCH).logits, alone)
    optimizer = torch.optim.AdamW([p for _, p in installed.trainable()], lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = summed_nll(installed.model(**BATCH).logits, next_tokens(IDS.masked_fill(IDS == 0, -100)))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    installed.write(tmp_path)
    again = Base.load(wide, quantize="4bit")
    with torch.no_grad():
        restored = QST(reduction=4).restore(again, again.model, tmp_path)
        assert torch.equal(restored.model(**BATCH).logits, installed.model(**BATCH).logits)


def test_widths_that_do_not_fit_are_named_with_those_that_do(tiny_llama, tiny_t5):
    base = Base.load(tiny_llama)
    with pytest.raises(InputError, match="these work: 2, 4"):
        QST(reduction=16).install(base, base.model)
    other = Base.load(tiny_t5)
    with pytest.raises(InputError, match="encoder-decoder"):
        QST().install(other, other.model)
    installed = QST(reduction=4).install(base, base.model)
    fixed = StaticCache(base.model.config, 16)
    with pytest.raises(InputError, match="growing cache"):
        installed.model(**BATCH, past_key_values=fixed, use_cache=True)
