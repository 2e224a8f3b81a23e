"""The linearised model against a finite difference and a closed form; what it stores, and what it refuses."""

import pytest
import torch
from torch.func import functional_call

from pairtune.constraints.l2sp import L2SP
from pairtune.errors import ConfigError, InputError
from pairtune.pair.base import Base
from pairtune.pair.pair import Layer, Pair
from pairtune.training.memory import SavedBytes
from pairtune.tuners.linearized import Linearized
from pairtune.tuners.linearized_model import plain_attention
from pairtune.tuners.lora import LoRA

IDS = torch.tensor([[1, 5, 9, 12, 7, 4], [1, 8, 30, 6, 0, 0]])
BATCH = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}


def load(folder):
    return Base.load(folder, task="classification", labels=["a", "b", "c"])


def install(folder, scale=0.0, base=None, **settings):
    base = base or load(folder)
    installed = Linearized(**settings).install(base, base.model)
    torch.manual_seed(0)
    with torch.no_grad():
        for _, delta in installed.trainable():
            delta.normal_(std=scale) if scale else None
    return base, installed


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_bert", "tiny_t5"])
def test_it_is_the_base_and_the_directional_derivative(model, request):
    base, installed = install(request.getfixturevalue(model), 0.02)
    batch = BATCH | ({"decoder_input_ids": IDS[:, :4]} if base.family == "seq2seq" else {})
    inner = base.model.double()
    point = {name: p.detach() for name, p in inner.named_parameters()}
    deltas = {name: d.detach().double() for name, d in installed.trainable()}

    def at(step):
        moved = {name: point[name] + step * deltas[name] for name in deltas}
        with torch.no_grad(), plain_attention(inner):
            return functional_call(inner, moved, kwargs=batch).logits

    central = (at(1e-3) - at(-1e-3)) / 2e-3  # norms compute in float32, so that a small step drowns
    fresh, again = install(request.getfixturevalue(model), 0.02)
    with torch.no_grad():
        found = again.model(**batch).logits
        again.off()
        alone = fresh.model(**batch).logits
    wrong = (found.double() - alone.double() - central).abs().max()
    assert wrong < 1e-3 * central.abs().max(), wrong
    assert (found - alone).abs().max() > 1e-2


def test_its_gradient_is_that_of_the_kernel(tiny_bert):
    """d/dδ of v·f̄ is Jᵀv, whatever δ: compared with ordinary reverse mode at the base."""
    _, installed = install(tiny_bert, 0.05)
    v = torch.randn(2, 3)
    (installed.model(**BATCH).logits * v).sum().backward()
    found = {name: d.grad for name, d in installed.trainable()}
    plain = load(tiny_bert)
    plain.model.requires_grad_(True)
    with plain_attention(plain.model):
        (plain.model(**BATCH).logits * v).sum().backward()
    for name, parameter in plain.model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-5, rtol=1e-4), name


def test_trained_on_squares_with_a_pull_to_the_base_it_is_kernel_regression(tiny_bert):
    """Gradient descent reaches f0 + K (K + λ)⁻¹ (y − f0), K the tangent kernel at the base."""
    _, installed = install(tiny_bert, layers=[1, 2])
    y = torch.tensor([[1.0, -1.0, 0.5], [0.0, 2.0, -0.5]])
    names = [name for name, _ in installed.trainable()]
    with torch.no_grad():
        first = installed.model(**BATCH).logits
    rows = []
    for i in range(6):
        gradient = torch.autograd.grad(
            installed.model(**BATCH).logits.flatten()[i], [p for _, p in installed.trainable()]
        )
        rows.append(torch.cat([g.flatten() for g in gradient]).double())
    jacobian = torch.stack(rows)
    kernel, weight = jacobian @ jacobian.T, 5.0
    expected = first.double().flatten() + kernel @ torch.linalg.solve(
        kernel + weight * torch.eye(6, dtype=torch.float64), (y - first).double().flatten()
    )
    rate = 1.0 / (float(torch.linalg.eigvalsh(kernel)[-1]) + weight)
    for _ in range(400):
        deltas = [p for _, p in installed.trainable()]
        loss = 0.5 * (installed.model(**BATCH).logits - y).square().sum()
        loss = loss + weight / 2 * sum(p.square().sum() for p in deltas)
        with torch.no_grad():
            for p, g in zip(deltas, torch.autograd.grad(loss, deltas), strict=True):
                p -= rate * g
    with torch.no_grad():
        found = installed.model(**BATCH).logits.double().flatten()
    assert torch.allclose(found, expected, atol=1e-3) and len(names) > 10


def test_the_constraint_pulls_to_the_base(tiny_bert):
    base, installed = install(tiny_bert, 0.1)
    pair = Pair(base, [Layer(installed, lambda: None, {"tuner": {"name": "linearized"}})])
    pull = L2SP(weight=0.5, head_weight=0.25)
    pull.prepare(pair)
    head = sum(d.square().sum() for name, d in installed.trainable() if name in base.new_names)
    rest = sum(d.square().sum() for name, d in installed.trainable() if name not in base.new_names)
    assert torch.allclose(pull.penalty(pair, {}, None), 0.5 * (0.5 * rest + 0.25 * head))
    side = load(tiny_bert)
    from pairtune.tuners.ladder import Ladder

    ladder = Ladder(reduction=4).install(side, side.model)
    with pytest.raises(ConfigError, match="no counterpart"):
        pull.prepare(Pair(side, [Layer(ladder, lambda: None)]))


def test_a_new_head_comes_back_with_the_values_it_is_expanded_around(tiny_bert, tmp_path):
    _, installed = install(tiny_bert, 0.05)
    installed.write(tmp_path)
    other = Base.load(tiny_bert, task="classification", labels=["a", "b", "c"], head_seed=7)
    restored = Linearized().restore(other, other.model, tmp_path)
    with torch.no_grad():
        assert torch.equal(restored.model(**BATCH).logits, installed.model(**BATCH).logits)


def test_it_runs_under_the_byte_counter_in_half_precision_and_on_an_adapter(tiny_llama):
    base = load(tiny_llama)
    lower = LoRA(r=2).install(base, base.model)
    for _, parameter in lower.trainable():
        torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        below = lower.model(**BATCH).logits
    installed = Linearized(layers=[0, 3]).install(base, lower.model)
    with torch.no_grad():
        assert torch.equal(installed.model(**BATCH).logits, below)
    with SavedBytes(base.model) as counted, torch.autocast("cpu", torch.bfloat16):
        logits = installed.model(**BATCH).logits
    logits.float().square().mean().backward()
    assert counted.bytes > 0 and all(p.grad is not None for _, p in installed.trainable())


def test_wrong_uses_are_refused(tiny_llama, tiny_bert):
    base = load(tiny_llama)
    with pytest.raises(InputError, match="blocks 0 to 3"):
        Linearized(layers=[4]).install(base, base.model)
    with pytest.raises(InputError, match="no block is named"):
        Linearized(layers=[]).install(base, base.model)
    other = load(tiny_bert)
    lower = LoRA(r=2).install(other, other.model)
    with pytest.raises(InputError, match="wrapped"):
        Linearized().install(other, lower.model)
