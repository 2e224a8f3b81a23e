"""What every merge method promises, checked on every one that the registry finds.

A new method is in this test by being in its room.
"""

import itertools

import pytest
import torch
from tests.merging.models import configured, moved, states, statistics

from pairtune import registry
from pairtune.merging.engine import in_memory
from pairtune.merging.engine.run import merge
from pairtune.pair.checkpoint import Checkpoint

NAMES = registry.methods("merging")
WITH_ORDER = {"slerp", "passthrough"}  # the order of their models has a meaning


@pytest.fixture(params=NAMES)
def method(request):
    return configured(request.param)


def count(method, wanted=3):
    fewest, most = method.models
    return min(max(wanted, fewest), most)


def combine(models, method, given, base=None, known=None):
    known = statistics(method, models) if known is None else known
    return in_memory.combine(models, method, given, base, statistics=known)


def weights(method, values):
    return values[: count(method)] if method.weighted else None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_models_give_the_model_back(method, dtype):
    base, _ = states(0, dtype)
    models = [dict(base)] * count(method)
    found = combine(models, method, weights(method, [0.2, 0.5, 0.3]), base if "base" in method.needs else None)
    for name, tensor in base.items():
        assert found[name].dtype == dtype
        if dtype == torch.bfloat16:
            assert torch.equal(found[name], tensor)
        else:
            assert torch.allclose(found[name], tensor, rtol=3e-7, atol=0)


def test_order_does_not_matter_where_it_must_not(method):
    name = type(method).__module__.rpartition(".")[2].replace("_", "-")
    if name in WITH_ORDER or method.random:
        pytest.skip("its models have an order")
    base, models = states(count(method))
    given = [0.2, 0.5, 0.3][: len(models)]
    known = statistics(method, models)
    expected = combine(models, method, weights(method, given), base, known)
    for order in itertools.permutations(range(len(models))):
        theirs = None if known is None else [known[i] for i in order]
        found = combine([models[i] for i in order], method, weights(method, [given[i] for i in order]), base, theirs)
        assert all(torch.allclose(found[k], expected[k], rtol=1e-5, atol=1e-6) for k in expected)


def test_weights_of_zero_give_the_base_bit_for_bit(method):
    if "base" not in method.needs or not method.weighted:
        pytest.skip("it has no base, or no weights")
    base, models = states(count(method), torch.bfloat16)
    found = combine(models, method, [0.0] * len(models), base)
    assert all(torch.equal(found[name], base[name]) for name in base)


def test_only_the_proportions_of_weights_count_where_they_are_normalised(method):
    if method.signed or not method.weighted:
        pytest.skip("its weights are not shares")
    _, models = states(count(method))
    known = statistics(method, models)
    one, other = (combine(models, method, given, None, known) for given in ([0.2, 0.5, 0.3], [0.8, 2.0, 1.2]))
    assert all(torch.allclose(one[name], other[name], rtol=1e-5, atol=1e-6) for name in one)
    assert any(not torch.allclose(one[n], t, atol=1e-3) for n, t in combine(models, method, [1, 1, 1]).items())


def test_the_engine_writes_what_is_computed_in_memory_bit_for_bit(method, tiny_llama, tmp_path):
    if "samples" in method.needs:
        pytest.skip("it needs data; see test_samples.py")
    folders = [moved(tiny_llama, tmp_path / str(i), i) for i in range(count(method))]
    given = weights(method, [0.2, 0.5, 0.3])
    base = tiny_llama if "base" in method.needs else None
    merge(folders, tmp_path / "out", method, weights=given, base=base, check=False)
    models = [dict(Checkpoint(folder)) for folder in folders]
    expected = combine(models, method, given, None if base is None else dict(Checkpoint(base)))
    found = Checkpoint(tmp_path / "out")
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_result_does_not_depend_on_how_often_it_is_computed(method):
    base, models = states(count(method))
    once, twice = (combine(models, method, weights(method, [0.2, 0.5, 0.3]), base) for _ in range(2))
    assert all(torch.equal(once[name], twice[name]) for name in once)
