"""Tuning that begins at a pair: the first value is its delta, the reference stays the base."""

import pytest
import torch
from tests.cli.typed import call
from tests.merging.bases import nudged, task, tuned

from pairtune.errors import BaseMismatch, InputError
from pairtune.merging.rebase.pair import rebase
from pairtune.pair.installed import plain_parameters
from pairtune.pair.pair import Pair
from pairtune.training.run import tune

LORA = {"name": "lora", "r": 2}


@pytest.fixture(scope="module")
def ground(tiny_llama, tmp_path_factory):
    """(data, a full and a low-rank pair of it)"""
    place = tmp_path_factory.mktemp("ground")
    data = task(place / "task")
    return data, {str(name): tuned(tiny_llama, data, place / name, t) for name, t in (("full", "full"), ("lora", LORA))}


def begun(start, data, **more):
    """A pair after one step with a rate so small that it shows where it began."""
    training = {"lr": 1e-9, "max_steps": 1, "warmup": 0.0, "eval_every": 1, "schedule": "constant"}
    return tune({"start": str(start), "data": str(data), "training": training, **more})


def change(pair):
    """The dense change of every tensor against the base."""
    return {name: pair.delta.difference(name) for name in pair.delta}


@pytest.mark.parametrize("name", ["full", "lora"])
def test_the_same_tuner_goes_on_with_the_delta_itself(ground, name):
    data, pairs = ground
    before, pair = Pair.load(pairs[name]), begun(pairs[name], data)
    assert len(pair.layers) == 1
    assert pair.top.record["tuner"] == before.top.record["tuner"]
    assert pair.card.parents == [str(pairs[name])]
    old, new = change(before), change(pair)
    assert old.keys() == new.keys()
    for tensor, value in old.items():
        assert torch.allclose(new[tensor], value, atol=1e-7) and value.abs().max() > 1e-4, tensor
    assert any(not torch.equal(new[tensor], value) for tensor, value in old.items())  # it was tuned on
    with pair.reference():
        now = {name: value for name, value in plain_parameters(pair.base.model).items() if "lora" not in name}
        assert all(torch.equal(value, pair.base.parameters[name]) for name, value in now.items())


def test_full_tuning_begins_at_any_change_of_weights(ground):
    data, pairs = ground
    before, pair = Pair.load(pairs["lora"]), begun(pairs["lora"], data, tuner="full")
    assert pair.delta and all(part.kind == "value" for part in pair.delta.values())
    for name in before.delta:
        assert torch.allclose(pair.delta.difference(name), before.delta.difference(name), atol=1e-6), name
    others = [name for name in pair.delta if name not in before.delta]
    assert others and all(pair.delta.difference(name).abs().max() < 1e-6 for name in others)


def test_a_moved_delta_is_tuned_on_and_measured_against_the_new_base(ground, tiny_llama, tmp_path):
    data, pairs = ground
    new = nudged(tiny_llama, tmp_path / "new")
    moved = rebase(pairs["full"], new)
    moved.save(tmp_path / "moved")
    pair = begun(tmp_path / "moved", data, out=str(tmp_path / "out"))
    assert pair.base.source == str(new)
    for name, value in change(moved).items():
        assert torch.allclose(pair.delta.difference(name), value, atol=1e-6), name
    assert rebase(tmp_path / "out", tiny_llama).delta  # and moves again


def test_a_stopped_run_is_known_by_what_it_started_from(ground, tmp_path):
    data, pairs = ground
    begun(pairs["lora"], data, out=str(tmp_path / "out"))
    identity = Pair.load(tmp_path / "out").top.record["training"]["identity"]
    other = Pair.load(pairs["full"])
    other.save(tmp_path / "other")
    begun(tmp_path / "other", data, out=str(tmp_path / "second"))
    assert identity["start"] != Pair.load(tmp_path / "second").top.record["training"]["identity"]["start"]


def test_what_cannot_be_started_from_is_refused(ground, tiny_llama, tiny_bert, tmp_path, capsys):
    data, pairs = ground
    new = nudged(tiny_llama, tmp_path / "new")
    with pytest.raises(BaseMismatch, match="pairtune rebase"):
        begun(pairs["full"], data, base=str(new))
    with pytest.raises(InputError, match="made with 2, not with 4"):
        begun(pairs["lora"], data, tuner={"name": "lora", "r": 4})
    with pytest.raises(InputError, match="its own kind only"):
        begun(pairs["full"], data, tuner=LORA)
    head = tuned(tiny_bert, data, tmp_path / "head", "head")
    lines = (data / "train.jsonl").read_text().replace('"cat"}', '"zebra"}')
    other = task(tmp_path / "other")
    for split in ("train", "validation", "test"):
        (other / f"{split}.jsonl").write_text(lines)
    with pytest.raises(InputError, match="a head for the labels cat, dog"):
        begun(head, other)
    code, _, err = call(capsys, "tune", "--start", tmp_path / "no", "--data", data, "--out", tmp_path / "out")
    assert code == 2 and "no such folder" in err
