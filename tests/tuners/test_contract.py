"""What every tuner promises, checked on every one that the registry finds, on every model family that it serves.

A new tuner is in this test by being in its room. One that has no useful defaults on models this small names settings in
`SETTINGS`; one that needs a setting to be named at all (`peft:<type>`) is listed in `VARIANTS`.
"""

import pytest
import torch

from pairtune import registry
from pairtune.errors import DeltaMismatch, MissingView
from pairtune.pair.base import Base
from pairtune.pair.delta import Delta
from pairtune.pair.installed import SwappedParameters
from pairtune.pair.outputs import Outputs
from pairtune.pair.pair import Layer, Pair, evaluating

FAMILIES = {"causal": "tiny_llama", "encoder": "tiny_bert", "seq2seq": "tiny_t5"}
LABELS = ["a", "b", "c"]
SETTINGS = {
    "sparse": {"choose": "random", "density": 0.1},
    "levi": {"small_width": 8, "hidden": 6},
    "lora": {"r": 4, "alpha": 8},
    "corda": {"r": 4},
    "ladder": {"reduction": 4},
    "qst": {"reduction": 4, "rank": 4},
    "adapter": {"reduction": 4},
    "adaptformer": {"r": 4},
    "compacter": {"n": 2, "reduction": 4},
    "conformer-adapter": {"reduction": 4, "kernel": 3},
    "deep-prompt": {"prompts": 3},
    "equitune": {"group": "words", "cycles": [["cat", "dog", "man"]], "train": "both"},
}
VARIANTS = {"peft": ["peft:ia3", "peft:prefix_tuning"]}
SETTINGS |= {"peft:prefix_tuning": {"num_virtual_tokens": 3}}


def names():
    return [name for method in registry.methods("tuners") for name in VARIANTS.get(method, [method])]


def cases():
    for name in names():
        for family in sorted(registry.load("tuners", name).families):
            yield pytest.param((name, family), id=f"{name}-{family}")


@pytest.fixture(params=cases())
def case(request):
    name, family = request.param
    return registry.build("tuners", name, SETTINGS.get(name, {})), name, request.getfixturevalue(FAMILIES[family])


def load(folder):
    return Base.load(folder, task="classification", labels=LABELS)


def install(tuner, folder, seed=0):
    base = load(folder)
    torch.manual_seed(seed)
    installed = tuner.install(base, base.model, [batch(base.family)])
    return base, installed, Pair(base, [Layer(installed, lambda: tuner.extract(installed), {"tuner": {"name": "t"}})])


def batch(family):
    ids = torch.tensor([[1, 5, 9, 12, 7, 4], [1, 8, 30, 6, 0, 0]])
    found = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    return found | ({"decoder_input_ids": ids[:, :4]} if family == "seq2seq" else {})


def views(pair):
    """Everything that an objective would fit, on the side that is on; real positions only."""
    with torch.no_grad(), evaluating(pair.model):
        out = Outputs.of(pair.model(**batch(pair.base.family)))
    return [out.logits, *(view for view, _ in out.views)]


def base_logits(base):
    with torch.no_grad():
        return base.model(**batch(base.family)).logits


def step(installed, family, lr=0.5):
    """One optimizer step on a loss that every view takes part in."""
    installed.model.train()
    for module in installed.frozen_modules():
        module.eval()
    optimizer = torch.optim.SGD([parameter for _, parameter in installed.trainable()], lr=lr)
    out = Outputs.of(installed.model(**batch(family)))
    sum((weight * view.float().square().mean() for view, weight in out.views), torch.tensor(0.0)).backward()
    gradients = {name for name, p in installed.trainable() if p.grad is not None and bool(p.grad.any())}
    optimizer.step()
    installed.model.eval()
    return gradients


def test_off_is_the_base_alone_bit_for_bit_and_its_parameters_are_untouched(case):
    tuner, _, folder = case
    alone = base_logits(load(folder))
    base, installed, pair = install(tuner, folder)
    before = base.checksum()
    with pair.off():
        assert torch.equal(base_logits(base), alone)
        assert pair.model is base.model
    step(installed, base.family)
    on = views(pair)
    with pair.off():
        assert torch.equal(base_logits(base), alone)
    assert all(torch.equal(one, two) for one, two in zip(views(pair), on, strict=True))
    assert base.checksum() == before == load(folder).checksum()


def test_a_step_changes_the_variant_and_only_what_it_said_would_train(case):
    tuner, _, folder = case
    base, installed, pair = install(tuner, folder)
    assert not any(module.training for module in installed.model.modules())
    before = views(pair)
    trainable = {name: p.detach().clone() for name, p in installed.trainable()}
    assert trainable and len(trainable) == len(installed.trainable())
    listed = {id(parameter) for _, parameter in installed.trainable()}
    assert {id(p) for p in installed.model.parameters() if p.requires_grad} == listed
    gradients = step(installed, base.family)
    assert gradients
    assert any(not torch.equal(one, two) for one, two in zip(before, views(pair), strict=True))
    changed = {name for name, p in installed.trainable() if not torch.equal(p, trainable[name])}
    assert changed and changed <= gradients
    now = dict(installed.trainable())
    for name in gradients - changed:  # only a step that is too small for the digits of a large number may do nothing
        assert float(now[name].grad.abs().max()) * 0.5 < 1e-6 * float(now[name].abs().max()), name


def test_the_state_goes_round_bit_for_bit(case):
    tuner, _, folder = case
    base, installed, pair = install(tuner, folder)
    step(installed, base.family)
    state = {name: tensor.clone() for name, tensor in installed.state().items()}
    expected = views(pair)
    step(installed, base.family)
    assert any(not torch.equal(tensor, state[name]) for name, tensor in installed.state().items())
    installed.load_state(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in installed.state().items())
    assert all(torch.equal(one, two) for one, two in zip(views(pair), expected, strict=True))


def test_what_is_written_is_restored(case, tmp_path):
    tuner, _, folder = case
    base, installed, pair = install(tuner, folder)
    step(installed, base.family)
    files = installed.write(tmp_path)
    assert files and all((tmp_path / name).is_file() for name in files)
    assert not [path for path in tmp_path.iterdir() if path.name not in files]
    fresh = load(folder)
    torch.manual_seed(99)
    restored = tuner.restore(fresh, fresh.model, tmp_path)
    again = Pair(fresh, [Layer(restored, lambda: tuner.extract(restored))])
    assert all(torch.equal(one, two) for one, two in zip(views(again), views(pair), strict=True))
    assert {id(p) for p in restored.model.parameters() if p.requires_grad} == {id(p) for _, p in restored.trainable()}


def test_a_state_that_does_not_fit_is_refused(case):
    tuner, _, folder = case
    _, installed, pair = install(tuner, folder)
    state = {name: tensor.clone() for name, tensor in installed.state().items()}
    first = next(name for name, tensor in state.items() if tensor.is_floating_point())
    expected = views(pair)
    lacking = {name: tensor for name, tensor in state.items() if name != first}
    with pytest.raises(DeltaMismatch, match="missing"):
        installed.load_state(lacking)
    with pytest.raises(DeltaMismatch, match="unexpected"):
        installed.load_state({**state, "extra.weight": torch.zeros(2)})
    with pytest.raises(DeltaMismatch, match="missing"):
        installed.load_state({**lacking, first + "_renamed": state[first]})
    with pytest.raises(DeltaMismatch, match="shape"):
        installed.load_state({**state, first: torch.zeros(1, 2, 3)})
    with pytest.raises(DeltaMismatch, match="NaN"):
        installed.load_state({**state, first: torch.full_like(state[first], float("nan"))})
    assert all(torch.equal(one, two) for one, two in zip(views(pair), expected, strict=True))


def test_it_begins_as_the_base_where_it_says_so(case):
    tuner, _, folder = case
    _, installed, pair = install(tuner, folder)
    assert installed.provides - {"peft"} <= tuner.provides
    if "identity_at_start" in installed.provides:
        assert torch.equal(views(pair)[0], base_logits(load(folder)))


def test_a_fraction_of_nothing_is_the_base(case):
    tuner, _, folder = case
    base, installed, pair = install(tuner, folder)
    step(installed, base.family)
    on = views(pair)[0]
    if "scale" not in installed.provides:
        with pytest.raises(MissingView):
            installed.scale(0.5)
        return
    with pair.at(0.0):
        assert torch.equal(views(pair)[0], base_logits(load(folder)))
    with pair.at(0.5):
        half = views(pair)[0]
        assert not torch.equal(half, on) and not torch.equal(half, base_logits(load(folder)))
    assert torch.equal(views(pair)[0], on)


def test_the_same_seed_gives_the_same_tuner(case):
    tuner, _, folder = case
    one, two = (install(tuner, folder, seed=3)[1] for _ in range(2))
    for installed in (one, two):
        torch.manual_seed(4)
        step(installed, load(folder).family)
    assert all(torch.equal(tensor, two.state()[name]) for name, tensor in one.state().items())


def test_what_is_merged_is_what_was_trained(case):
    tuner, _, folder = case
    base, installed, pair = install(tuner, folder)
    step(installed, base.family, lr=0.1)
    delta = pair.delta
    assert isinstance(delta, Delta) and len(delta)
    if "merge" not in installed.provides:
        assert {part.kind for part in delta.values()} == {"module"}
        return
    from pairtune.pair.apply import install_delta

    fresh = load(folder)
    merged = Pair(fresh, [Layer(install_delta(fresh, delta), lambda: delta)])
    assert torch.allclose(views(merged)[0], views(pair)[0], atol=2e-5, rtol=1e-5)


def test_padding_does_not_change_a_row(case):
    tuner, name, folder = case
    base, installed, pair = install(tuner, folder)
    step(installed, base.family, lr=0.05)
    whole = batch(base.family)
    alone = {key: value[1:, :4] if value.shape[1] == 6 else value[1:] for key, value in whole.items()}
    with torch.no_grad(), evaluating(pair.model):
        together = pair.model(**whole).logits[1:]
        by_itself = pair.model(**alone).logits
    if together.ndim == 3:
        together = together[:, : by_itself.shape[1]]
    assert torch.allclose(together, by_itself, atol=1e-5), name


def test_the_first_changed_block_is_not_later_than_the_first_that_changes(case):
    tuner, _, folder = case
    base, installed, pair = install(tuner, folder)
    if isinstance(installed, SwappedParameters) or "labels" not in installed.provides:
        step(installed, base.family)
    first = installed.first_changed()
    assert 0 <= first <= len(base.blocks)
    found: dict[str, list] = {"off": [], "on": []}
    hooks = [
        block.register_forward_hook(lambda _m, _a, out: found[side].append(out[0] if isinstance(out, tuple) else out))
        for _, block in base.blocks
    ]
    side = "off"
    with pair.off():
        base_logits(base)
    side = "on"
    views(pair)
    for hook in hooks:
        hook.remove()
    for one, two in list(zip(found["off"], found["on"], strict=False))[:first]:
        assert torch.equal(one, two)
