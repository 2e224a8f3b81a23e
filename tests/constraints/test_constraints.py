"""Each constraint against a direct evaluation of its equation, and its refusals."""

import pytest
import torch
from torch.nn import functional as F

from pairtune import registry
from pairtune.constraints import Constraint
from pairtune.constraints import kl as kl_file
from pairtune.constraints.kl import KL
from pairtune.constraints.l2sp import L2SP
from pairtune.errors import ConfigError, MissingView

from .directed import a_file
from .pairs import dense_pair

BATCH = {
    "input_ids": torch.tensor([[1, 8, 9, 10, 11], [1, 20, 21, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}
LM = {**BATCH, "labels": torch.tensor([[-100, -100, 9, 10, 11], [1, 20, 21, -100, -100]])}
LABELS = ["yes", "no", "perhaps"]


def test_l2sp_is_the_papers_equation_and_its_gradient_pulls_to_the_base(tiny_bert):
    pair = dense_pair(tiny_bert, noise=0.1, task="classification", labels=LABELS)
    penalty = L2SP(weight=0.3, head_weight=0.02).penalty(pair, {}, None)
    with pair.off():
        start = {name: p.detach().double().clone() for name, p in pair.base.model.named_parameters()}
    expected = 0.0
    for name, p in pair.trainable():
        head = name in pair.base.new_names
        moved = p.detach().double() if head else p.detach().double() - start[name]
        expected += (0.02 if head else 0.3) / 2 * moved.square().sum()
    assert pair.base.new_names
    assert penalty.item() == pytest.approx(float(expected), rel=1e-5)
    penalty.backward()
    name, p = next((n, p) for n, p in pair.trainable() if n not in pair.base.new_names)
    torch.testing.assert_close(p.grad, 0.3 * (p.detach() - start[name].float()))


@pytest.mark.parametrize("init", ["zero", "pissa"])
def test_l2sp_on_low_rank_factors_is_the_norm_of_the_change_of_the_weights(tiny_llama, init):
    from peft.tuners.lora import LoraLayer

    from pairtune.pair.base import Base
    from pairtune.pair.pair import Layer, Pair

    base = Base.load(tiny_llama, device="cpu")
    targets = ["q_proj", "down_proj"]
    tuner = registry.build("tuners", "lora", {"r": 3, "alpha": 5, "targets": targets, "init": init})
    torch.manual_seed(0)
    installed = tuner.install(base, base.model)
    pair = Pair(base, [Layer(installed, lambda: tuner.extract(installed), {"tuner": {"name": "lora"}})])
    constraint = L2SP(weight=0.7)
    constraint.prepare(pair)
    assert constraint.penalty(pair, {}, None).item() == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        for _, p in pair.trainable():
            p.add_(0.1 * torch.randn(p.shape))
    layers = [module for module in installed.model.modules() if isinstance(module, LoraLayer)]
    assert len(layers) == 8
    expected = 0.0
    for layer in layers:
        up = {name: layer.scaling[name] * factor.weight.double() for name, factor in layer.lora_B.items()}
        change = sum(up[name] @ factor.weight.double() for name, factor in layer.lora_A.items())
        expected += 0.7 / 2 * change.square().sum()
    assert constraint.penalty(pair, {}, None).item() == pytest.approx(float(expected), rel=1e-4)


def test_l2sp_refuses_parameters_without_a_counterpart_by_name(tiny_llama):
    from peft import IA3Config, get_peft_model

    from pairtune.pair.base import Base
    from pairtune.pair.installed import Installed
    from pairtune.pair.pair import Layer, Pair

    class Adapter(Installed):
        def trainable(self):
            return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    base = Base.load(tiny_llama, device="cpu")
    config = IA3Config(target_modules=["k_proj"], feedforward_modules=[])
    installed = Adapter(get_peft_model(base.model, config), {"tokens"})
    pair = Pair(base, [Layer(installed, lambda: None, {"tuner": {"name": "peft:ia3"}})])  # type: ignore
    with pytest.raises(ConfigError, match=r"ia3_l.* of the tuner peft:ia3 has no counterpart in the base"):
        L2SP().prepare(pair)


@pytest.mark.parametrize("at_once", [100, 1 << 22])
def test_kl_is_the_mean_over_scored_tokens_and_so_is_its_gradient(tiny_llama, monkeypatch, at_once):
    monkeypatch.setattr(kl_file, "AT_ONCE", at_once)
    pair = dense_pair(tiny_llama, noise=0.1)
    constraint = KL(weight=0.4, temperature=2.0)
    constraint.prepare(pair)
    base = pair.base_outputs(LM).logits.double()
    out = pair.forward(LM)
    out.logits.retain_grad()
    penalty = constraint.penalty(pair, LM, out)
    penalty.backward()
    logits = out.logits.detach().double().requires_grad_()
    scored = [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]  # the positions that predict a label
    direct = 0.0
    for b, t in scored:
        p, q = (base[b, t] / 2).softmax(-1), (logits[b, t] / 2).log_softmax(-1)
        direct = direct + (p * (p.log() - q)).sum()
    expected = 0.4 * 4 * direct / len(scored)
    expected.backward()
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(out.logits.grad.double(), logits.grad, rtol=1e-4, atol=1e-8)


def test_kl_on_classes_and_its_refusal_of_a_new_head(tiny_bert, tmp_path):
    fresh = dense_pair(tiny_bert, task="classification", labels=LABELS)
    with pytest.raises(MissingView, match="no trained head"):
        KL().prepare(fresh)
    fresh.base.model.save_pretrained(tmp_path)
    fresh.base.tokenizer.save_pretrained(tmp_path)
    pair = dense_pair(tmp_path, noise=0.1, task="classification", labels=LABELS)
    constraint = KL(weight=1.0)
    constraint.prepare(pair)
    out = pair.forward(BATCH)
    base = pair.base_outputs(BATCH).logits
    expected = F.kl_div(out.logits.log_softmax(-1), base.log_softmax(-1), reduction="batchmean", log_target=True)
    torch.testing.assert_close(constraint.penalty(pair, BATCH, out), expected)


CHEAPEST = {"freeze": {"embeddings": True}}


@pytest.mark.parametrize("name", sorted(registry.methods("constraints")))
def test_contract_every_constraint_prepares_keeps_the_base_and_gives_what_it_says(tiny_llama, tmp_path, name):
    """Contract of the protocol, for every registered constraint with its defaults on a dense delta."""
    needed = [one.name for one in registry.find("constraints", name).settings if one.required]
    files = {"directions": a_file(tmp_path)[1]} if "directions" in needed else {}
    constraint = registry.build("constraints", name, CHEAPEST.get(name, {}) | files)
    assert isinstance(constraint, Constraint)
    pair = dense_pair(tiny_llama, noise=0.05)
    checksum = pair.base.checksum()
    constraint.prepare(pair)
    for side in constraint.needs & {"base_outputs", "reference_outputs"}:
        getattr(pair, side)(LM)
    out = pair.forward(LM)
    penalty = constraint.penalty(pair, LM, out)
    loss = out.logits.float().square().mean()
    if penalty is not None:
        assert penalty.ndim == 0
        assert penalty.item() >= 0
        loss = loss + penalty
    loss.backward()
    constraint.on_gradients(pair)
    constraint.after_step(pair)
    groups = constraint.parameter_groups(pair) or []
    names = [name for group in groups for name in group["names"]]
    assert len(names) == len(set(names))
    assert set(names) <= dict(pair.trainable()).keys()
    assert all(p.grad is None or p.grad.isfinite().all() for _, p in pair.trainable())
    constraint.finish(pair)
    assert not any(block._forward_hooks for _, block in pair.base.blocks)
    pair.verify_base(checksum)
