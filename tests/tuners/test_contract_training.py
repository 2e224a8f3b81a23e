"""What every tuner promises while it trains, on every family that it serves; and that its stated facts are true."""

import pytest
import torch
from tests.tuners.test_contract import SETTINGS, batch, case, install, step, views

from pairtune import registry
from pairtune.cli.methods import contract
from pairtune.data.task import Task
from pairtune.errors import ConfigError
from pairtune.pair.base import Base
from pairtune.pair.outputs import Outputs
from pairtune.pair.pair import Layer, Pair
from pairtune.training.config import RunConfig
from pairtune.training.run import check

__all__ = ["case"]  # the fixture


def gradients(installed, inputs, seed=0, autocast=False):
    """The gradient of a loss that is a sum over rows and views."""
    torch.manual_seed(seed)
    for _, parameter in installed.trainable():
        parameter.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = Outputs.of(installed.model(**inputs))
        mask = inputs["attention_mask"]

        def rows(view):
            real = mask[:, : view.shape[1], None] if view.ndim == 3 else torch.ones(1)
            return (view.float().square() * real).sum()

        loss = sum((weight * rows(view) for view, weight in out.views), torch.tensor(0.0))
    loss.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in installed.trainable()}


def close(one, other, tolerance):
    size = torch.stack([g.norm() for g in other.values()]).norm()
    gap = torch.stack([(one[name] - g).norm() for name, g in other.items()]).norm()
    return bool(size > 0) and float(gap / size) < tolerance


def moved(tuner, folder):
    """Installed, and one step away from a start where many gradients are zero."""
    base, installed, _ = install(tuner, folder)
    step(installed, base.family, lr=0.05)
    return base, installed


def test_rows_one_by_one_give_the_gradient_of_the_batch(case):
    tuner, _, folder = case
    base, installed = moved(tuner, folder)
    whole = batch(base.family)
    together = gradients(installed, whole)
    apart = [gradients(installed, {name: tensor[i : i + 1] for name, tensor in whole.items()}) for i in range(2)]
    assert close({name: apart[0][name] + apart[1][name] for name in together}, together, 1e-4)


def test_checkpointed_blocks_give_the_same_gradient(case):
    tuner, _, folder = case
    base, installed = moved(tuner, folder)
    installed.model.train()
    for module in installed.frozen_modules():
        module.eval()
    plain = gradients(installed, batch(base.family))
    base.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    base.model.disable_input_require_grads()  # which the other, reentrant way needs
    again = gradients(installed, batch(base.family))
    assert close(again, plain, 1e-4)


def test_half_precision_computes_nearly_the_same_gradient(case):
    tuner, _, folder = case
    base, installed = moved(tuner, folder)
    exact = gradients(installed, batch(base.family))
    rough = gradients(installed, batch(base.family), autocast=True)
    assert all(g.isfinite().all() and g.dtype == exact[name].dtype for name, g in rough.items())
    assert close(rough, exact, 0.5)


def test_a_run_that_is_taken_up_goes_on_as_if_it_had_not_stopped(case):
    """One step, the state into a fresh tuner of another seed, one more step: bit for bit as without the break."""
    tuner, name, folder = case
    base, installed, _ = install(tuner, folder)
    torch.manual_seed(1)
    step(installed, base.family, lr=0.05)
    state = {name: tensor.clone() for name, tensor in installed.state().items()}
    # Where a random mask lies is part of a state's shape; a run that is taken up draws it again from its own seed.
    _, fresh, pair = install(tuner, folder, seed=0 if name == "sparse" else 9)
    fresh.load_state(state)
    for _, parameter in installed.trainable():
        parameter.grad = None
    for one in (installed, fresh):
        torch.manual_seed(2)
        step(one, base.family, lr=0.05)
    assert all(torch.equal(tensor, fresh.state()[name]) for name, tensor in installed.state().items())
    assert views(pair)


@pytest.mark.parametrize("name", sorted(registry.methods("tuners")))
def test_a_family_that_it_does_not_serve_is_refused_by_name(name, request):
    served = registry.load("tuners", name).families
    folders = {"causal": "tiny_llama", "encoder": "tiny_bert", "seq2seq": "tiny_t5"}
    others = sorted(folders.keys() - served)
    if not others:
        pytest.skip("it serves all three")
    task = Task.load("demo:helpdesk")
    for family in others:
        tuner = {"name": name, **SETTINGS.get(name, {})}
        config = RunConfig.of(
            {"base": str(request.getfixturevalue(folders[family])), "data": "demo:helpdesk", "tuner": tuner}
        )
        with pytest.raises(ConfigError, match=f"{name} serves .* models, not {family}"):
            check(config, config.steps(), task)


def stated(name):
    """The base on which a tuner's share is counted."""
    where = contract(registry.find("tuners", name))["counted_on"]
    more = {"task": "classification", "labels": ["a", "b"]} if where == "zoo:minilm" else {}
    return Base.load(where, device="cpu", **more)


@pytest.mark.offline
@pytest.mark.parametrize("name", sorted(registry.methods("tuners")))
def test_its_stated_facts_are_true(name):
    facts = contract(registry.find("tuners", name))
    if facts["trainable_share"] is None:
        pytest.skip("its settings decide what trains")
    base = stated(name)
    ids = torch.arange(5, 37).reshape(2, 16)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    tuner = registry.build("tuners", name, {"choose": "random"} if name == "sparse" else {})
    installed = tuner.install(base, base.model, [inputs])
    share = installed.count() / sum(p.numel() for p in base.parameters.values())
    assert share == pytest.approx(facts["trainable_share"], rel=0.03)
    assert facts["mergeable"] == ("merge" in installed.provides)
    assert facts["scalable"] == ("scale" in installed.provides)
    assert facts["identity_at_start"] == ("identity_at_start" in installed.provides)
    if facts["identity_at_start"]:
        pair = Pair(base, [Layer(installed, lambda: None)])
        with torch.no_grad():
            on = installed.model.eval()(**inputs).logits
            with pair.off():
                assert torch.equal(on, base.model(**inputs).logits)
