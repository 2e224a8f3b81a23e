"""The absolute distance to the start: its equation, what it leaves out, and whom it refuses."""

import pytest
import torch

from pairtune import registry
from pairtune.constraints.freeze import Freeze
from pairtune.constraints.l1_start import L1Start
from pairtune.errors import ConfigError
from pairtune.pair.base import Base
from pairtune.pair.pair import Layer, Pair

from .pairs import dense_pair

LABELS = ["yes", "no", "perhaps"]


def test_it_is_the_mean_absolute_distance_over_all_parameters_of_the_base(tiny_bert):
    pair = dense_pair(tiny_bert, noise=0.1, task="classification", labels=LABELS)
    constraint = L1Start(weight=0.3)
    constraint.prepare(pair)
    Freeze(norms=True).prepare(pair)
    penalty = constraint.penalty(pair, {}, None)  # type: ignore[arg-type]
    start, total, count = pair.base.parameters, 0.0, 0
    for name, p in pair.trainable():
        count += p.numel()
        if name not in pair.base.new_names and "LayerNorm" not in name:
            total += float((p.detach().double() - start[name].double()).abs().sum())
    assert pair.base.new_names
    assert penalty.item() == pytest.approx(0.3 * total / count, rel=1e-5)
    penalty.backward()
    name, p = next((n, p) for n, p in pair.trainable() if n.endswith("query.weight"))
    torch.testing.assert_close(p.grad, 0.3 / count * (p.detach() - start[name]).sign())


def test_adapters_have_no_start_to_be_near_to(tiny_llama):
    base = Base.load(tiny_llama)
    tuner = registry.build("tuners", "lora", {"r": 2})
    installed = tuner.install(base, base.model)
    pair = Pair(base, [Layer(installed, lambda: tuner.extract(installed), {"tuner": {"name": "lora"}})])
    with pytest.raises(ConfigError, match="the tuner lora does not tune the base's own weights"):
        L1Start().prepare(pair)


@pytest.mark.parametrize(("family", "word", "count"), [("tiny_bert", "LayerNorm", 14), ("tiny_llama", "norm", 9)])
def test_freezing_the_norms_freezes_them_alone(family, word, count, request):
    pair = dense_pair(request.getfixturevalue(family))
    Freeze(norms=True).prepare(pair)
    frozen = [name for name, p in pair.trainable() if not p.requires_grad]
    assert len(frozen) == count and all(word in name for name in frozen)
    assert not any(word in name for name, p in pair.trainable() if p.requires_grad)


def test_a_tuner_that_leaves_the_norms_out_needs_no_freezing(tiny_llama):
    base = Base.load(tiny_llama)
    tuner = registry.build("tuners", "sparse", {"choose": "random"})
    installed = tuner.install(base, base.model)
    pair = Pair(base, [Layer(installed, lambda: tuner.extract(installed), {"tuner": {"name": "sparse"}})])
    Freeze(norms=True).prepare(pair)
    assert all(p.requires_grad for _, p in pair.trainable())
