"""LEVI against a direct float64 evaluation of its equations, and the invariants of the method."""

import math
from functools import partial

import pytest
import torch

from pairtune.errors import MissingView
from pairtune.pair.base import Base
from pairtune.pair.outputs import Outputs
from pairtune.pair.pair import Layer, Pair
from pairtune.training.optimizer import make_optimizer
from pairtune.tuners.full import Full
from pairtune.tuners.levi import Levi
from pairtune.tuners.lora import LoRA

IDS = torch.tensor([[1, 5, 9, 12, 7, 4], [1, 8, 30, 6, 0, 0], [1, 22, 17, 0, 0, 0]])
BATCH = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}
LABELS = torch.tensor([0, 2, 1])
MODELS = ["tiny_llama", "tiny_bert", "tiny_t5"]


def load(folder):
    return Base.load(folder, task="classification", labels=["a", "b", "c"])


def install(folder, seed=0, **settings):
    base = load(folder)
    torch.manual_seed(seed)
    return base, Levi(**{"small_width": 8, "hidden": 6, **settings}).install(base, base.model)


def loss_of(out):
    return sum(weight * torch.nn.functional.cross_entropy(view, LABELS) for view, weight in out.views)


def layer_norm(x, weight=None, bias=None):
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return x if weight is None else x * weight + bias


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def q_of_x(small, ids):
    """The small Transformer on one unpadded text, written out: ids [T] → z [d_Q]."""
    p = {name: value.double() for name, value in small.named_parameters()}
    d = p["embed.weight"].shape[1]
    place = torch.arange(len(ids)).double()[:, None]
    angle = place * 10000.0 ** (-torch.arange(0, d, 2).double() / d)
    x = p["embed.weight"][ids] + 0.02 * torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
    for i in range(2):
        own = {name.removeprefix(f"layers.{i}."): value for name, value in p.items() if name.startswith(f"layers.{i}.")}
        y = layer_norm(x, own["norm_1.weight"], own["norm_1.bias"]) @ own["qkv.weight"].T + own["qkv.bias"]
        q, k, v = y.split(d, dim=-1)
        heads = []
        for h in range(4):
            part = slice(h * d // 4, (h + 1) * d // 4)
            scores = q[:, part] @ k[:, part].T / math.sqrt(d // 4)
            heads.append(scores.softmax(-1) @ v[:, part])
        x = x + torch.cat(heads, -1) @ own["proj.weight"].T + own["proj.bias"]
        y = layer_norm(x, own["norm_2.weight"], own["norm_2.bias"])
        x = x + gelu(y @ own["up.weight"].T + own["up.bias"]) @ own["down.weight"].T + own["down.bias"]
    return layer_norm(x, p["norm.weight"], p["norm.bias"]).mean(0)


def keep(found, _module, _args, output):
    found.append(output[0] if isinstance(output, tuple) else output)


@pytest.mark.parametrize("model", MODELS)
def test_the_forward_is_the_papers_equation(model, request):
    base, installed = install(request.getfixturevalue(model))
    for _, parameter in installed.trainable():  # the default start is too small to show an error
        torch.nn.init.normal_(parameter, std=0.3)
    installed.model.eval()
    with torch.no_grad():
        out = installed.model(**BATCH)
    whole = base.model.get_encoder() if base.family == "seq2seq" else base.model.base_model
    whole = whole.double()
    p = {name: value.detach().double() for name, value in installed.trainable()}
    for row, ids in enumerate(IDS):
        text = ids[ids != 0]
        found = []
        blocks = [m for _, m in base.blocks if any(m is inner for inner in whole.modules())]
        hooks = [m.register_forward_hook(partial(keep, found)) for m in blocks]
        with torch.no_grad():
            whole(input_ids=text[None], attention_mask=torch.ones_like(text)[None])
        for hook in hooks:
            hook.remove()
        z = q_of_x(installed.model.small, text)
        heads = []
        for k, hidden in enumerate(found):
            pooled = hidden[0, -1] if base.family == "causal" else hidden[0].mean(0)
            h = layer_norm(pooled, *(p[f"heads.norm_{part}"].view(len(found), -1)[k] for part in ("weight", "bias")))
            joined = torch.cat([h, z])
            first = torch.cat([p["heads.from_base"][k], p["heads.from_small"][k]], dim=1)
            inner = gelu(first @ joined + p["heads.bias"].view(len(found), -1)[k])
            heads.append(p["heads.out_weight"][k] @ inner + p["heads.out_bias"].view(len(found), -1)[k])
        expected = torch.stack(heads)
        for k in range(len(found)):
            assert torch.allclose(out.views[k][0][row].double(), expected[k], atol=2e-5, rtol=1e-4)
        assert torch.allclose(out.logits[row].double(), expected.mean(0), atol=2e-5, rtol=1e-4)


def test_k_heads_with_the_weights_of_the_loss(tiny_bert):
    _, installed = install(tiny_bert, head_weight=0.5, ensemble_weight=2.0)
    out = Outputs.of(installed.model.eval()(**BATCH))
    assert [weight for _, weight in out.views] == [0.5 / 3] * 3 + [2.0]
    heads = torch.stack([view for view, _ in out.views[:3]])
    assert torch.allclose(heads.mean(0), out.logits) and out.views[3][0] is out.logits
    only_mean = install(tiny_bert, head_weight=0.0)[1].model(**BATCH)
    assert [weight for _, weight in only_mean.views] == [1.0]


def test_removing_the_small_model_takes_exactly_its_share_of_parameters(tiny_bert):
    def count(**settings):
        return sum(p.numel() for _, p in install(tiny_bert, **settings)[1].trainable())

    base, installed = install(tiny_bert)
    small = sum(p.numel() for p in installed.model.small.parameters())
    k, m, d_q = 3, 6, 8
    assert count() - count(small="none") == small + k * m * d_q
    assert installed.model.small.embed.weight.shape == (base.vocabulary_rows, d_q)


def test_the_base_is_bit_identical_after_training_and_q_learns_in_every_step(tiny_bert):
    base, installed = install(tiny_bert)
    before = base.checksum()
    optimizer = torch.optim.AdamW([p for _, p in installed.trainable()], lr=1e-2)
    installed.model.train()
    assert not installed.model.base_model.training and installed.model.small.training
    first = 0.0
    for _ in range(20):
        optimizer.zero_grad()
        loss = loss_of(installed.model(**BATCH))
        loss.backward()
        assert all(float(p.grad.norm()) > 0 for name, p in installed.trainable() if name == "small.embed.weight")
        optimizer.step()
        first = first or float(loss.detach())
    assert float(loss.detach()) < 0.5 * first
    assert base.checksum() == before and all(p.grad is None for p in base.parameters.values())


@pytest.mark.parametrize("model", MODELS)
def test_training_from_cached_features_is_training_from_the_base(model, request):
    losses = []
    for cached in (False, True):
        _, installed = install(request.getfixturevalue(model))
        features = {"features": installed.features(BATCH)} if cached else {}
        assert "cacheable" in installed.provides
        optimizer = torch.optim.AdamW([p for _, p in installed.trainable()], lr=1e-2)
        installed.model.train()
        torch.manual_seed(1)
        for _ in range(5):
            optimizer.zero_grad()
            loss = loss_of(installed.model(**features, **BATCH))
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses[:5] == pytest.approx(losses[5:], abs=1e-5)


def test_with_features_the_base_is_not_run(tiny_bert):
    base, installed = install(tiny_bert)
    features = installed.features(BATCH)
    assert features["pooled"].shape == (3, 3, 16) and not features["pooled"].requires_grad
    ran = []
    base.model.register_forward_pre_hook(lambda *_: ran.append(1))
    installed.model(features=features, **BATCH)
    assert not ran


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_t5"])
@pytest.mark.parametrize("small", ["transformer", "cnn"])
def test_neither_side_nor_length_of_padding_matters(model, small, request):
    _, installed = install(request.getfixturevalue(model), small=small)
    for _, parameter in installed.trainable():
        torch.nn.init.normal_(parameter, std=0.3)
    installed.model.eval()
    longer = {key: torch.nn.functional.pad(value, (0, 5)) for key, value in BATCH.items()}
    left = {key: value.clone() for key, value in longer.items()}
    for row, count in enumerate(BATCH["attention_mask"].sum(1)):
        for value in left.values():
            value[row] = value[row].roll(int(11 - count))
    with torch.no_grad():
        plain, right, turned = (installed.model(**inputs).logits for inputs in (BATCH, longer, left))
    assert torch.allclose(plain, right, atol=1e-5) and torch.allclose(plain, turned, atol=1e-5)


def test_the_base_has_no_labels_to_compare_with(tiny_bert):
    base, installed = install(tiny_bert)
    pair = Pair(base, [Layer(installed, lambda: None)])  # type: ignore[arg-type]
    with pytest.raises(MissingView, match="no trained head"):
        pair.base_outputs(BATCH)


@pytest.mark.parametrize("lower", [LoRA(r=4), Full()], ids=["lora", "full"])
def test_on_a_base_already_tuned(lower, tiny_bert, tmp_path):
    base = load(tiny_bert)
    torch.manual_seed(0)
    below = lower.install(base, base.model)
    pair = Pair(base, [Layer(below, lambda: lower.extract(below), {"tuner": {"name": "lower"}})])
    for name, parameter in below.trainable():
        if "classifier" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    levi = Levi(small_width=8, hidden=6)
    plain = install(tiny_bert)[1].features(BATCH)["pooled"]
    torch.manual_seed(0)
    installed = levi.install(base, pair.model)
    pair.push(Layer(installed, lambda: levi.extract(installed)))
    tuned = installed.features(BATCH)["pooled"]
    assert not torch.allclose(tuned, plain, atol=1e-3)
    loss_of(installed.model(**BATCH)).backward()
    assert all(p.grad is None for _, p in below.trainable())
    with pair.off():
        assert torch.allclose(install(tiny_bert)[1].features(BATCH)["pooled"], plain)
    assert torch.equal(installed.features(BATCH)["pooled"], tuned)


def test_with_a_lora_both_train(tiny_llama):
    base, installed = install(tiny_llama, lora=2)
    before = base.checksum()
    assert "cacheable" not in installed.provides
    for name, parameter in installed.trainable():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    loss_of(installed.model(**BATCH)).backward()
    silent = [name for name, p in installed.trainable() if p.grad is None or not bool(p.grad.any())]
    assert [name for name in silent if "layers.3" not in name] == []  # the last block's queries see one token's loss
    groups = make_optimizer(Pair(base, [Layer(installed, lambda: None)]), [], 1e-2, 0.0).param_groups
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    assert rates == {
        name: pytest.approx(1e-3 if name.startswith("lora.") else 1e-2) for name, _ in installed.trainable()
    }
    with torch.no_grad():
        on = installed.levi.features(BATCH)["pooled"]
        installed.off()
        off = installed.levi.features(BATCH)["pooled"]
    assert not torch.equal(on, off) and base.checksum() == before
    assert torch.equal(off, install(tiny_llama)[1].features(BATCH)["pooled"])
