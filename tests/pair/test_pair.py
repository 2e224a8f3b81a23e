"""The switch: off is the base bit for bit, at(alpha) the line between, the base untouched through all of it."""

import pytest
import torch
from torch import nn

from pairtune.errors import MissingView, PairtuneError
from pairtune.pair.base import Base
from pairtune.pair.installed import Installed, SwappedParameters
from pairtune.pair.pair import Layer, Pair


def swapped(base, model, seed):
    torch.manual_seed(seed)
    variants = {n: nn.Parameter(p.detach() + 0.1 * torch.randn_like(p)) for n, p in base.parameters.items()}
    return Layer(SwappedParameters(model, variants), lambda: None, {"tuner": {"name": "full"}})  # type: ignore


@pytest.fixture
def pair(tiny_llama):
    base = Base.load(tiny_llama)
    return Pair(base, [swapped(base, base.model, 0)])


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(4, 14).view(2, 5)).logits


def test_off_is_the_base_and_at_is_the_line(tiny_llama, pair):
    base = logits(Base.load(tiny_llama).model)
    on = logits(pair.model)
    with pair.off():
        assert torch.equal(logits(pair.model), base)
    assert torch.equal(logits(pair.model), on) and not torch.allclose(on, base)
    with pair.at(0.0):
        assert torch.equal(logits(pair.model), base)
    with pair.at(0.5):
        halfway = dict(pair.base.model.named_parameters())["model.norm.weight"]
    expected = (pair.base.parameters["model.norm.weight"] + pair.top.installed.variants["model.norm.weight"]) / 2
    assert torch.allclose(halfway, expected, atol=1e-7)
    assert torch.equal(logits(pair.model), on)


def test_tied_parameters_move_together(pair):
    model = pair.base.model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with pair.off():
        assert (
            model.lm_head.weight is model.model.embed_tokens.weight is pair.base.parameters["model.embed_tokens.weight"]
        )


def test_a_stack_has_a_reference(tiny_llama):
    base = Base.load(tiny_llama)
    pair = Pair(base, [swapped(base, base.model, 0)])
    first = logits(pair.model)
    pair.push(swapped(base, pair.model, 1))
    second = logits(pair.model)
    with pair.reference():
        assert torch.equal(logits(pair.model), first)
        with pair.off():
            zero = logits(pair.model)
        assert torch.equal(logits(pair.model), first)
    assert torch.equal(logits(pair.model), second)
    assert torch.equal(zero, logits(Base.load(tiny_llama).model))


def test_the_state_comes_back_after_an_error(pair):
    on = logits(pair.model)
    with pytest.raises(RuntimeError), pair.off():
        raise RuntimeError
    assert torch.equal(logits(pair.model), on)


def test_what_cannot_be_scaled_says_so(tiny_llama):
    class Opaque(Installed):
        def on(self): ...
        def off(self): ...

    base = Base.load(tiny_llama)
    pair = Pair(base, [Layer(Opaque(base.model, {"tokens"}), lambda: None, {"tuner": "opaque"})])  # type: ignore
    with pytest.raises(MissingView, match="opaque"), pair.at(0.5):
        pass
    with pytest.raises(MissingView, match="no delta"):
        _ = Pair(base).delta


def test_base_and_reference_outputs_are_computed_once_a_step(pair):
    batch = {"input_ids": torch.arange(4, 14).view(2, 5), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    one = pair.base_outputs(batch)
    assert pair.base_outputs(batch) is one and pair.reference_outputs(batch) is one
    pair.begin_step()
    again = pair.base_outputs(batch)
    assert again is not one and torch.equal(again.logits, one.logits)
    assert not one.logits.requires_grad


def test_a_changed_base_is_noticed(pair):
    before = pair.base.checksum()
    pair.verify_base(before)
    with torch.no_grad():
        pair.base.parameters["model.norm.weight"][0] += 1e-6
    with pytest.raises(PairtuneError, match="changed in memory"):
        pair.verify_base(before)


def test_first_changed_follows_the_names(tiny_llama, tiny_t5):
    base = Base.load(tiny_llama)

    def first(*names):
        installed = SwappedParameters(base.model, {n: nn.Parameter(base.parameters[n].clone()) for n in names})
        index = installed.first_changed()
        installed.off()
        return index

    assert first("model.embed_tokens.weight") == 0
    assert first("model.layers.2.mlp.up_proj.weight", "model.norm.weight") == 2
    assert first("model.norm.weight") == 4


def test_swap_puts_another_delta_in_the_place_of_the_top_one(tiny_llama, pair):
    from pairtune.errors import DeltaMismatch
    from pairtune.pair.delta import Delta
    from pairtune.pair.parts import Dense

    name = "model.layers.1.mlp.up_proj.weight"
    before, old = logits(pair.model), pair.top
    with pytest.raises(DeltaMismatch):
        pair.swap(Delta({"model.nothing": Dense(torch.ones(2, 2))}))
    assert pair.top is old and torch.equal(logits(pair.model), before)
    change = torch.full_like(pair.base.parameters[name], 0.25)
    assert pair.swap(Delta({name: Dense(change)})) is old
    expected = Base.load(tiny_llama)
    with torch.no_grad():
        expected.parameters[name].add_(change)
    assert torch.equal(logits(pair.model), logits(expected.model))
    with pair.off():
        assert torch.equal(logits(pair.model), logits(Base.load(tiny_llama).model))
