"""The methods that look at data, given what was collected: against direct float64 evaluation of the equations."""

import pytest
import torch
from tests.merging.models import configured, states

from pairtune.merging.engine.in_memory import combine


def test_fisher_merges_by_its_equation():
    _, models = states(3)
    information = [{name: torch.rand_like(tensor) for name, tensor in model.items()} for model in models]
    for one in information:
        one["a.weight"][0] = 0  # nobody knows anything of these entries
    information[1]["b.weight"][:, 0] = 0
    given = [0.2, 0.5, 0.3]
    found = combine(models, configured("fisher"), given, statistics=information)
    for name, tensor in found.items():
        shares = torch.stack([w * f[name].double() for w, f in zip(given, information, strict=True)])
        values = torch.stack([model[name].double() for model in models])
        mean = sum(w * value for w, value in zip(given, values, strict=True))
        total = shares.sum(0)
        expected = torch.where(total > 0, (shares * values).sum(0) / total.clamp(min=1e-30), mean)
        assert torch.allclose(tensor.double(), expected, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.9, 1.0])
@pytest.mark.parametrize("turned", [False, True])
def test_regmean_merges_by_its_equation(alpha, turned):
    generator = torch.Generator().manual_seed(3)
    values = [torch.randn(30, 20, generator=generator).double() for _ in range(3)]
    inputs = [torch.randn(50, 20, generator=generator).double() for _ in values]
    grams = [x.T @ x / len(x) for x in inputs]
    given = [0.2, 0.5, 0.3]
    shrunk = [w * (alpha * g + (1 - alpha) * torch.diag(g.diagonal())) for w, g in zip(given, grams, strict=True)]
    expected = torch.linalg.inv(sum(shrunk)) @ sum(g @ v.T for g, v in zip(shrunk, values, strict=True))
    models = [{"w": (v.T.contiguous() if turned else v)} for v in values]
    known = [{"w": g[None] if turned else g} for g in grams]
    found = combine(models, configured("regmean", alpha=alpha), given, statistics=known)["w"]
    assert torch.allclose(found if turned else found.T, expected, rtol=1e-10, atol=1e-12)


def test_regmean_takes_the_mean_where_inputs_are_always_zero():
    generator = torch.Generator().manual_seed(3)
    values = [torch.randn(30, 20, generator=generator).double() for _ in range(2)]
    inputs = [torch.randn(50, 20, generator=generator).double() for _ in values]
    for x in inputs:
        x[:, 7] = 0
    known = [{"w": x.T @ x} for x in inputs]
    found = combine([{"w": v} for v in values], configured("regmean"), statistics=known)["w"]
    assert torch.allclose(found[:, 7], (values[0] + values[1])[:, 7] / 2, rtol=1e-12)
    assert found.isfinite().all() and not torch.allclose(found, (values[0] + values[1]) / 2, atol=1e-3)
