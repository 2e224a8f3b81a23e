"""CorDA against its equations in float64 and PEFT's own preparation; what it keeps, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from tests.tuners.test_peft import BATCH, install, load, logits, train

from pairtune.errors import ConfigError, InputError
from pairtune.pair.apply import install_delta
from pairtune.pair.base import Base
from pairtune.tuners import covariance
from pairtune.tuners.corda import CorDA
from pairtune.tuners.corda_initial import decompose
from pairtune.tuners.lora import LoRA

PADDED = {
    "input_ids": torch.tensor([[1, 5, 9, 12, 7, 4], [1, 8, 30, 6, 0, 0], [0, 0, 0, 1, 44, 3]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]]),
}


def layers_of(base):
    inside = tuple(f"{name}." for name, _ in base.blocks)
    return {n: m for n, m in base.model.named_modules() if isinstance(m, torch.nn.Linear) and n.startswith(inside)}


def moments_by_hand(base, layers, batch):
    """Σ_s X_sᵀX_s / max|X_s|² / S, row by row without padding, in float64."""
    sums = {
        name: torch.zeros(layer.in_features, layer.in_features, dtype=torch.float64) for name, layer in layers.items()
    }

    def add(name):
        def hook(_module, args):
            x = args[0][0].double()
            sums[name] += x.T @ x / x.abs().max() ** 2

        return hook

    handles = [layer.register_forward_pre_hook(add(name)) for name, layer in layers.items()]
    with torch.no_grad():
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            base.model(input_ids=ids[mask.bool()][None])
    for handle in handles:
        handle.remove()
    return {name: total / len(batch["input_ids"]) for name, total in sums.items()}


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_bert"])
def test_the_moments_are_those_of_the_real_tokens_whatever_the_padding(model, request):
    base = load(request.getfixturevalue(model))
    layers = layers_of(base)
    left = PADDED if base.family == "causal" else {k: v[:2] for k, v in PADDED.items()}  # BERT's places count padding
    batch = dict(left)
    if base.family == "causal":
        batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    found = covariance.measure(base, base.model, layers, [batch])
    assert (found.rows, found.tokens) == (len(batch["input_ids"]), int(batch["attention_mask"].sum()))
    for name, expected in moments_by_hand(base, layers, left).items():
        assert torch.allclose(found.of(name).double(), expected, rtol=1e-4, atol=1e-6), name
    shared = {name for name, leader in found.leader.items() if leader != name}
    assert shared and len(found.matrices) == len(layers) - len(shared)


def test_the_decomposition_is_exact_and_ordered_by_the_moment():
    torch.manual_seed(0)
    weight, x = torch.randn(6, 9, dtype=torch.float64), torch.randn(50, 9, dtype=torch.float64)
    moment = (x * torch.logspace(0, -2, 9)).T @ (x * torch.logspace(0, -2, 9)) / 50
    u, s, v, damping = decompose(weight, moment)
    assert damping == 0.01 and bool((s[:-1] >= s[1:]).all())
    assert torch.allclose(u * s @ v, weight, atol=1e-10)
    damped = moment + damping * moment.diagonal().mean() * torch.eye(9)
    expected = np.linalg.svd((weight @ damped).numpy(), compute_uv=False)
    assert np.allclose(s.numpy(), expected)
    # With a round context it is the plain decomposition, as in PiSSA.
    plain_u, plain_s, plain_v = torch.linalg.svd(weight, full_matrices=False)
    u, s, v, _ = decompose(weight, torch.eye(9, dtype=torch.float64))
    assert torch.allclose(u[:, :3] * s[:3] @ v[:3], plain_u[:, :3] * plain_s[:3] @ plain_v[:3], atol=1e-8)


def test_what_the_context_uses_is_lost_last():
    """Dropping the smallest components hurts the context's own outputs less than the plain decomposition's do."""
    torch.manual_seed(1)
    weight = torch.randn(12, 16, dtype=torch.float64)
    x = torch.randn(200, 5, dtype=torch.float64) @ torch.randn(5, 16, dtype=torch.float64)
    x = x + 0.05 * torch.randn(200, 16, dtype=torch.float64)
    u, s, v, _ = decompose(weight, x.T @ x / 200)
    plain = torch.linalg.svd(weight, full_matrices=False)
    for kept in (4, 6, 8):
        own = (x @ (weight - u[:, :kept] * s[:kept] @ v[:kept]).T).norm()
        theirs = (x @ (weight - plain.U[:, :kept] * plain.S[:kept] @ plain.Vh[:kept]).T).norm()
        assert own < 0.7 * theirs


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_it_begins_at_the_chosen_end_and_as_the_base(mode, tiny_llama, tmp_path):
    texts = tmp_path / "known.jsonl"
    texts.write_text(
        "\n".join(json.dumps({"text": f"the cat sat on the {w} mat {w}"}) for w in "red blue old".split() * 8)
    )
    tuner = CorDA(mode=mode, r=3, alpha=6, data=str(texts) if mode == "kpm" else None)
    alone = logits(load(tiny_llama).model)
    base, installed = install(tuner, tiny_llama, [BATCH])
    assert "identity_at_start" in installed.provides and torch.equal(logits(installed.model), alone)
    layers = {name.replace(".base_layer", ""): m for name, m in layers_of(base).items()}
    layer = installed.layers[0]
    name = next(n for n, m in base.model.named_modules() if m is layer)
    plain = load(tiny_llama)
    batches = tuner._context(plain) if mode == "kpm" else [BATCH]
    found = covariance.measure(plain, plain.model, layers_of(plain), batches)
    u, s, v, _ = decompose(layers[name].weight, found.of(name))
    part = slice(0, 3) if mode == "ipm" else slice(len(s) - 3, None)
    scale = layer.scaling["default"]
    made = scale * layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
    assert torch.allclose(made, u[:, part] * s[part] @ v[part], atol=1e-5)
    assert not any(hasattr(module, "eigens") for module in base.model.modules())


def test_peft_s_own_preparation_gives_the_same_start(tiny_llama):
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    one = {name: value[:1] for name, value in BATCH.items()}  # of one row: its scale, where we differ, cancels
    _, installed = install(CorDA(r=3, targets=["q_proj", "down_proj"]), tiny_llama, [one])
    theirs = Base.load(tiny_llama).model
    config = LoraConfig(
        r=3, lora_alpha=3, target_modules=["q_proj", "down_proj"], init_lora_weights="corda",
        corda_config=CordaConfig(corda_method="ipm"),
    )  # fmt: skip

    preprocess_corda(theirs, config, run_model=lambda: theirs(**one))
    other = get_peft_model(theirs, config)
    ours = dict(installed.peft.named_modules())
    checked = 0
    for name, layer in other.named_modules():
        if hasattr(layer, "lora_A"):
            mine = ours[name]
            b, a = layer.lora_B["default"].weight, layer.lora_A["default"].weight
            expected, made = b @ a, mine.lora_B["default"].weight @ mine.lora_A["default"].weight
            assert torch.allclose(made, expected, atol=1e-3), name  # theirs is inverted in float32
            checked += 1
    assert checked == 8


def test_saved_it_is_a_lora_of_twice_the_rank_and_comes_back_as_it_was(tiny_bert, tmp_path):
    tuner = CorDA(r=4, alpha=8)
    base, installed = install(tuner, tiny_bert, [BATCH])
    before = base.checksum()
    train(installed)
    tuned = logits(installed.model)
    installed.write(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 8
    assert torch.allclose(logits(PeftModel.from_pretrained(load(tiny_bert).model, tmp_path)), tuned, atol=1e-5)
    fresh = load(tiny_bert)
    restored = tuner.restore(fresh, fresh.model, tmp_path)
    assert torch.equal(logits(restored.model), tuned)
    assert restored.count() == installed.count()
    merged = load(tiny_bert)
    assert torch.allclose(logits(install_delta(merged, tuner.extract(installed)).model), tuned, atol=1e-5)
    installed.off()
    assert base.checksum() == before
    odd = tmp_path / "odd"
    _, plain = install(LoRA(r=3), tiny_bert)
    odd.mkdir()
    plain.write(odd)
    with pytest.raises(InputError, match="even"):
        tuner.restore(load(tiny_bert), load(tiny_bert).model, odd)


def test_what_was_measured_is_kept_by_base_and_texts(tiny_llama, tmp_path, monkeypatch):
    tuner = CorDA(r=3, cache=str(tmp_path / "kept"))
    runs = []
    real = covariance.measure
    monkeypatch.setattr(covariance, "measure", lambda *args: runs.append(1) or real(*args))
    first = install(tuner, tiny_llama, [BATCH])[1].state()
    again = install(tuner, tiny_llama, [BATCH])[1].state()
    assert len(runs) == 1 and all(torch.equal(first[name], again[name]) for name in first)
    install(tuner, tiny_llama, [PADDED])
    assert len(runs) == 2
    for file in (tmp_path / "kept").glob("*/moments.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    torn = install(tuner, tiny_llama, [BATCH])[1].state()
    assert len(runs) == 3 and all(torch.equal(first[name], torn[name]) for name in first)


def test_wrong_uses_are_refused_with_what_would_be_right(tiny_llama):
    with pytest.raises(ConfigError, match="data: kpm"):
        CorDA(mode="kpm")
    base = load(tiny_llama)
    with pytest.raises(InputError, match="looks at data"):
        CorDA().install(base, base.model)
    with pytest.raises(InputError, match="more than"):
        CorDA(r=64).install(base, base.model, [BATCH])
    with pytest.raises(InputError, match="Embedding"):
        CorDA(r=4, targets=["embed_tokens"]).install(base, base.model, [BATCH])
    lower = LoRA(r=2).install(base, base.model)
    with pytest.raises(InputError, match="lora.Linear|Linear"):
        CorDA(r=4, targets=["q_proj"]).install(base, lower.model, [BATCH])
