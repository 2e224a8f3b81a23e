"""Every method against its paper's equation, evaluated directly in float64."""

import itertools
import math

import pytest
import torch
from tests.merging.models import configured, states

from pairtune.errors import ConfigError, InputError
from pairtune.merging.engine.in_memory import combine
from pairtune.merging.engine.operands import Operands
from pairtune.merging.inputs.sources import Stored
from pairtune.merging.task_vectors import at_least, at_most, magnitude_at

WEIGHTS = [0.7, 0.2, 0.4]


def double(tensors):
    return {name: tensor.double() for name, tensor in tensors.items()}


def task_vectors(base, models):
    return {name: torch.stack([model[name].double() - base[name].double() for model in models]) for name in base}


def weigh(vectors, weights):
    return vectors * torch.tensor(weights, dtype=torch.float64).view(-1, *[1] * (vectors.ndim - 1))


def largest(vector, low, high):
    """The entries whose places in the ascending order of magnitude are in [low, high)."""
    order = vector.abs().flatten().argsort()
    kept = torch.zeros(vector.numel(), dtype=torch.bool)
    kept[order[low:high]] = True
    return vector * kept.view(vector.shape)


def elect(vectors, weights, normalize):
    weighted = weigh(vectors, weights)
    sign = torch.where(weighted.sum(0) >= 0, 1.0, -1.0)
    agree = weighted.sign() == sign
    out = (weighted * agree).sum(0)
    divisor = weigh(agree.double(), weights).sum(0)
    return out / divisor.masked_fill(divisor == 0, 1) if normalize else out


def expected(name, base, models, **s):
    """The equation in the method's docstring."""
    found = {}
    for key, vectors in task_vectors(base, models).items():
        origin, count = base[key].double(), vectors[0].numel()
        values = torch.stack([model[key].double() for model in models])
        if name == "linear":
            found[key] = weigh(values, WEIGHTS).sum(0) / (sum(WEIGHTS) if s.get("normalize", True) else 1)
        elif name == "task-arithmetic":
            found[key] = origin + s.get("scale", 1) * weigh(vectors, WEIGHTS).sum(0)
        elif name == "ties":
            kept = max(1, int(s["density"] * count))
            trimmed = torch.stack([largest(vector, count - kept, count) for vector in vectors])
            found[key] = origin + s.get("scale", 1) * elect(trimmed, WEIGHTS, s.get("normalize", True))
        elif name == "breadcrumbs":
            kept = max(1, int(s["density"] * count))
            first = max(0, count - kept - int(s["gamma"] * count))
            crumbs = torch.stack([largest(vector, first, first + kept) for vector in vectors])
            found[key] = origin + weigh(crumbs, WEIGHTS).sum(0)
        elif name == "slerp":
            a, b = values[0].flatten(), values[1].flatten()
            cosine = float(a @ b / (a.norm() * b.norm()))
            angle = math.acos(cosine)
            factors = [math.sin((1 - s["t"]) * angle), math.sin(s["t"] * angle)]
            factors = [1 - s["t"], s["t"]] if abs(cosine) > 0.9995 else [f / math.sin(angle) for f in factors]
            found[key] = (factors[0] * a + factors[1] * b).view(origin.shape)
        elif name == "model-stock":
            unit = [vector.flatten() / vector.norm() for vector in vectors]
            cosine = sum(one @ other for one, other in itertools.combinations(unit, 2)) / 3
            t = 3 * cosine / (1 + 2 * cosine)
            found[key] = t * values.mean(0) + (1 - t) * origin
    return found


@pytest.mark.parametrize(
    "name, settings",
    [
        ("linear", {}),
        ("linear", {"normalize": False}),
        ("task-arithmetic", {"scale": 0.3}),
        ("ties", {"density": 0.3}),
        ("ties", {"density": 0.3, "scale": 1.5, "normalize": False}),
        ("ties", {"density": 1.0}),
        ("breadcrumbs", {"density": 0.3, "gamma": 0.05}),
        ("slerp", {"t": 0.3}),
        ("model-stock", {}),
    ],
)
def test_the_equation(name, settings):
    method = configured(name, **settings)
    base, models = states(2 if name == "slerp" else 3, scale=1.0)
    found = combine(models, method, WEIGHTS[: len(models)] if method.weighted else None, base)
    for key, tensor in expected(name, base, models, **settings).items():
        assert torch.allclose(found[key].double(), tensor, rtol=2e-6, atol=2e-6), key


def test_a_density_for_each_model():
    base, models = states(2)
    density = [0.2, 0.9]
    found = combine(models, configured("ties", density=density), [1, 1], base)["a.weight"]
    vectors = task_vectors(base, models)["a.weight"]
    trimmed = torch.stack([largest(v, 60 - int(d * 60), 60) for v, d in zip(vectors, density, strict=True)])
    assert torch.allclose(found.double(), base["a.weight"].double() + elect(trimmed, [1, 1], True), atol=1e-6)
    with pytest.raises(InputError, match="one for each of the 3 models; found 2"):
        combine([*models, base], configured("ties", density=density), [1, 1, 1], base)


@pytest.mark.parametrize("name", ["dare-linear", "dare-ties"])
def test_dare_drops_at_random_and_keeps_the_expectation(name):
    base, models = states(1)
    found = combine(models, configured(name, density=0.4), [1.0], base)["b.weight"] - base["b.weight"]
    change = models[0]["b.weight"] - base["b.weight"]
    kept = found != 0
    assert torch.allclose(found[kept], change[kept] / 0.4, atol=1e-6)
    count = change.numel()
    assert abs(int(kept.sum()) - 0.4 * count) < 5 * math.sqrt(0.24 * count)
    # Neither rows nor pieces share a mask.
    assert len({tuple(row.tolist()) for row in kept[:, :64]}) == len(kept)
    other = combine(models, configured(name, density=0.4, seed=1), [1.0], base)["b.weight"] - base["b.weight"]
    assert not torch.equal(other != 0, kept)


def test_dare_masks_differ_between_models_and_tensors():
    base, _ = states(0)
    model = {name: tensor + 1 for name, tensor in base.items()}
    twin = {"x": base["b.weight"], "y": base["b.weight"].clone()}
    found = combine([{k: v + 1 for k, v in twin.items()}], configured("dare-linear", density=0.5), [1.0], twin)
    assert not torch.equal(found["x"], found["y"])
    both = combine([model, model], configured("dare-linear", density=0.5), [1.0, 1.0], base)["b.weight"]
    assert len((both - base["b.weight"]).round().unique()) == 3  # dropped in both, in one, in none


def test_della_keeps_large_entries_more_often_and_keeps_the_expectation():
    base, models = states(1)
    found = combine(models, configured("della", density=0.5, epsilon=0.3), [1.0], base)["b.weight"] - base["b.weight"]
    change = (models[0]["b.weight"] - base["b.weight"]).double()
    rank = change.abs().argsort(1).argsort(1) / 512
    chance = 0.2 + 0.6 * rank
    kept = found != 0
    assert torch.allclose(found[kept].double(), (change / chance)[kept], atol=1e-6)
    for low in (0.0, 0.5, 0.9):
        where = (rank >= low) & (rank < low + 0.1)
        count = int(where.sum())
        assert abs(int(kept[where].sum()) - float(chance[where].sum())) < 5 * math.sqrt(0.25 * count)


def test_slerp_of_parallel_models_is_linear():
    base, _ = states(0)
    double_ = {name: 2 * tensor for name, tensor in base.items()}
    found = combine([base, double_], configured("slerp", t=0.25))
    assert all(torch.allclose(found[name], 1.25 * tensor, rtol=1e-6) for name, tensor in base.items())


def test_model_stock_keeps_the_base_where_changes_cancel():
    base, models = states(1)
    opposite = {name: 2 * base[name] - tensor for name, tensor in models[0].items()}
    found = combine([models[0], opposite], configured("model-stock"), base=base)
    assert all(torch.allclose(found[name], base[name], atol=1e-6) for name in base)


def test_small_changes_survive_in_bfloat16():
    """The sum is made in float32: changes that bfloat16 would lose one by one add up."""
    base = {"x": torch.full((1000,), 1.0, dtype=torch.bfloat16)}
    model = {"x": torch.full((1000,), 1.0078125, dtype=torch.bfloat16)}
    found = combine([model] * 8, configured("task-arithmetic"), [0.125] * 8, base)
    assert torch.equal(found["x"], model["x"])


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match="density: a share is above 0 and at most 1, not 0"):
        configured("ties", density=0.0)
    with pytest.raises(ConfigError, match="density ± epsilon must lie between 0 and 1"):
        configured("della", density=0.9, epsilon=0.2)
    with pytest.raises(ConfigError, match="t: .*less than or equal to 1"):
        configured("slerp", t=1.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_threshold_is_that_of_a_sort(dtype):
    """Exact at every place, with zeros and ties among the numbers."""
    rng = torch.Generator().manual_seed(0)
    change = torch.randn(3000, generator=rng, dtype=dtype) * 10.0 ** torch.randint(-30, 30, (3000,), generator=rng)
    change[:700] = 0
    change[700:900] = change[1000]
    whole = Operands("x", (3000,), (Stored(change),), (1.0,), Stored(torch.zeros(3000, dtype=dtype)), dtype, 0, 3000)
    order = change.abs().sort().values
    for place in [0, 1, 699, 700, 1500, 2000, 2998, 2999]:
        assert magnitude_at(whole, 0, place) == float(order[place])
        smallest = float(order[place])
        assert torch.equal(at_least(change.clone(), smallest), change * (change.abs() >= smallest))
        assert torch.equal(at_most(change.clone(), smallest), change * (change.abs() <= smallest))
