"""The line between two states of the weights: its ends to the bit, its middle, what it leaves behind and refuses."""

import pytest
import torch
from tests.analysis.pets import ROWS, write_splits

import pairtune
from pairtune.errors import BaseMismatch, MissingView
from pairtune.pair.line import delta_of, exchanged, line_between, line_of

IDS = torch.tensor([[1, 5, 6, 7, 9]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rows = [{"text": text, "label": label} for text, label in ROWS]
    return write_splits(tmp_path_factory.mktemp("pets"), {"train": rows * 3, "validation": rows})


@pytest.fixture(scope="module")
def make(folder):
    def tuned(base, tuner, **more):
        training = {"lr": 0.01, "max_steps": 3}
        config = {"base": str(base), "data": str(folder), "tuner": tuner, "training": training}
        return pairtune.tune({**config, **more})

    return tuned


def logits(pair):
    with torch.no_grad():
        return pair.model(input_ids=IDS).logits


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_the_points_are_those_of_the_pair(make, tiny_llama, tuner):
    pair = make(tiny_llama, tuner)
    line, before = line_of(pair), pair.base.checksum()
    variant = logits(pair)
    with pair.off():
        base = logits(pair)
        with line.at(0.0):
            assert torch.equal(logits(pair), base)
        with line.at(1.0):
            assert torch.allclose(logits(pair), variant, atol=1e-5)
        with line.at(0.3):
            point = logits(pair)
        assert torch.equal(logits(pair), base)
    with pair.at(0.3):
        assert torch.allclose(logits(pair), point, atol=1e-5)
    assert not torch.allclose(point, base, atol=1e-3) and not torch.allclose(point, variant, atol=1e-3)
    assert pair.base.checksum() == before and torch.equal(logits(pair), variant)


def test_a_group_stands_at_a_place_of_its_own(make, tiny_llama):
    pair = make(tiny_llama, "full")
    line = line_of(pair)
    group = {name for name in line.start if "layers.1." in name}
    values = line.values(1.0, group, 0.25)
    for name in line.start:
        alpha = 0.25 if name in group else 1.0
        exact = line.start[name].double() * (1 - alpha) + line.end[name].double() * alpha
        assert torch.allclose(values[name].double(), exact, atol=1e-6)
    assert group and all(not torch.equal(values[name], line.end[name]) for name in group)


def test_whatever_is_done_inside_the_old_parameters_come_back(tiny_llama):
    base = pairtune.Base.load(tiny_llama)
    name = "model.layers.0.mlp.up_proj.weight"
    objects = {id(parameter) for parameter in base.model.parameters()}
    before = base.checksum()

    def spoil():
        with torch.no_grad(), exchanged(base.model, {name: base.parameters[name] * 2}) as inside:
            inside[name].add_(1.0)
            assert base.model.model.layers[0].mlp.up_proj.weight is inside[name]
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        spoil()
    assert base.checksum() == before
    assert {id(parameter) for parameter in base.model.parameters()} == objects


def test_between_two_variants_of_one_base(make, tiny_llama, tiny_t5):
    one, other = make(tiny_llama, "full"), make(tiny_llama, "lora", seed=1)
    line, first = line_between(one, other), logits(one)
    with one.off(), line.at(1.0):
        assert torch.allclose(logits(one), logits(other), atol=1e-5)
    with one.off(), line.at(0.0):
        assert torch.equal(logits(one), first)
    assert not torch.allclose(first, logits(other), atol=1e-3)
    with pytest.raises(BaseMismatch, match="different bases"):
        line_between(one, make(tiny_t5, "full"))


def test_a_new_head_needs_a_beginning(make, tiny_bert, folder):
    full, probe = make(tiny_bert, "full"), make(tiny_bert, "head")
    with pytest.raises(MissingView, match="random head"):
        line_of(full)
    line = line_between(probe, full)
    assert "classifier.weight" in line.start and "bert.encoder.layer.0.output.dense.weight" in line.start
    both = pairtune.tune(
        {
            "base": str(tiny_bert),
            "data": str(folder),
            "stages": [
                {"name": "head", "tuner": "head", "training": {"lr": 0.01, "max_steps": 3}},
                {"name": "full", "tuner": "full", "training": {"lr": 0.01, "max_steps": 3}},
            ],
        }
    )
    line = line_of(both)
    with both.reference():
        below = logits(both)
    with both.off(), line.at(0.0):
        assert torch.equal(logits(both), below)
    assert not torch.equal(logits(both), below)


def test_heads_of_other_labels_are_not_mixed(make, tiny_bert):
    one, other = make(tiny_bert, "head"), make(tiny_bert, "head", seed=1)
    other.base.labels = other.base.labels[::-1]
    with pytest.raises(BaseMismatch, match="different labels"):
        line_between(one, other)


def test_side_networks_have_no_line(make, tiny_bert):
    with pytest.raises(MissingView, match="levi"):
        line_of(make(tiny_bert, "levi"))


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_a_point_becomes_a_delta(make, tiny_llama, tuner):
    pair = make(tiny_llama, tuner)
    line = line_of(pair)
    delta = delta_of(pair, line, 0.4)
    kinds = {part.kind for part in delta.values()}
    assert kinds == ({"low-rank"} if tuner == "lora" else {"value"})
    for name, value in line.values(0.4).items():
        disk = pair.base.names.disk(name)[0]
        assert torch.allclose(delta.apply(disk, pair.base.parameters[name].detach()), value, atol=1e-6)
