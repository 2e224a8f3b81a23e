"""The doctor's checks hold on a sound pair and fail on a broken one."""

import pytest
import torch
from torch import nn

from pairtune.analysis.doctor import examine, machine
from pairtune.pair.base import Base
from pairtune.pair.installed import SwappedParameters
from pairtune.pair.pair import Layer, Pair


def make(folder, step=0.05, **load):
    base = Base.load(folder, **load)
    torch.manual_seed(1)
    variants = {n: nn.Parameter(p + step * torch.randn_like(p)) for n, p in base.parameters.items()}
    return Pair(base, [Layer(SwappedParameters(base.model, variants), lambda: None)])  # type: ignore


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_bert", "tiny_t5"])
def test_a_sound_pair_keeps_every_promise(name, request):
    task = {"task": "classification", "labels": ["a", "b"]} if name == "tiny_bert" else {}
    pair = make(request.getfixturevalue(name), **task)
    if name == "tiny_bert":
        from pairtune.pair.card import BaseRecord, Card

        record = BaseRecord(source="x", fingerprint={})
        pair.card = Card(base=record, stack=[], task={"kind": "classification"})
    checks = examine(pair)
    assert not [check for check in checks if check.holds is False]
    assert sum(check.holds is True for check in checks) >= 4


def test_a_delta_of_nothing_and_a_leaking_switch_are_found(tiny_llama):
    failed = {check.name for check in examine(make(tiny_llama, step=0.0)) if check.holds is False}
    assert failed == {"the delta is real"}
    pair = make(tiny_llama)
    pair.top.installed.off = lambda: None  # type: ignore[method-assign]
    failed = {check.name for check in examine(pair) if check.holds is False}
    assert "off() is the base, bit for bit" in failed


def test_a_base_that_was_written_to_is_found(tiny_llama):
    pair = make(tiny_llama)
    with torch.no_grad():
        pair.base.parameters["model.norm.weight"].mul_(1.1)
    failed = {check.name for check in examine(pair) if check.holds is False}
    assert "off() is the base, bit for bit" in failed


def test_the_machine_is_described():
    found = machine()
    assert found["cores"] >= 1
    assert found["torch"] == torch.__version__
