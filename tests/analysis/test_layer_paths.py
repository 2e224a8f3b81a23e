"""Layers' paths against closed forms, which layers lag, what thinning keeps, and the layers of real architectures."""

import numpy as np
import pytest
import torch
from torch import nn

import pairtune
from pairtune.analysis.layer_paths import (
    agreement,
    layer_groups,
    layer_paths,
    overlap,
    stragglers,
    thinned,
)
from pairtune.errors import InputError
from pairtune.pair.line import Line


class Blocks(nn.Module):
    """Three blocks of two projections each, so that they count as transformer blocks."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"attn": nn.Linear(2, 2), "mlp": nn.Linear(2, 2)}) for _ in "abc"])


@pytest.fixture
def line():
    model = Blocks()
    names = dict(model.named_parameters())
    start = {name: torch.zeros_like(one) for name, one in names.items()}
    return Line(model, start, {name: torch.ones_like(one) for name, one in names.items()})


def test_a_layers_path_moves_that_layer_alone(line):
    groups = layer_groups(line.model, line.start, halves=False)
    assert list(groups) == ["0", "1", "2"]

    def loss():
        at = [float(line.model.layers[i]["mlp"].weight.mean()) for i in range(3)]
        # Block 1 has a hill between its ends whose height depends on block 0; the others go straight.
        return 5 - at[0] - 2 * at[2] + (1 + at[0]) * at[1] * (1 - at[1])

    found = layer_paths(line, groups, loss, places=(0.0, 0.5, 1.0))
    assert found["1"].losses == pytest.approx([2.0, 2.5, 2.0])
    assert found["1"].mirror == pytest.approx([5.0, 5.25, 5.0])
    assert found["1"].barrier == pytest.approx(0.5) and found["1"].lag == pytest.approx(0.25)
    assert found["1"].mirror_lag == pytest.approx(0.125)
    for name in ("0", "2"):
        assert found[name].lag == pytest.approx(0.0) and found[name].barrier == pytest.approx(0.0)
    assert found["0"].losses == pytest.approx([3.0, 2.5, 2.0])
    chosen = stragglers({name: one.lag for name, one in found.items()})
    assert chosen == ["1"] and agreement(found, chosen) == (1.0, 1.0)


def test_a_valley_is_no_lag(line):
    groups = layer_groups(line.model, line.start, halves=False)

    def loss():
        at = float(line.model.layers[0]["mlp"].weight.mean())
        return -at * (1 - at)

    assert layer_paths(line, groups, loss)["0"].lag < 0


def test_stragglers_lie_above_mean_and_spread():
    assert stragglers({"a": 0.0, "b": 0.1, "c": 0.1, "d": 5.0}) == ["d"]
    assert stragglers({"a": 1.0, "b": 1.0}) == []
    assert stragglers({"a": 3.0, "b": 1.0, "c": 2.0}, top=2) == ["a", "c"]
    assert overlap(["a", "b"], ["b", "c"]) == pytest.approx(1 / 3)
    assert overlap([], []) == 1.0


def test_thinning_keeps_the_largest_entries_of_a_layer_together(line):
    generator = torch.Generator().manual_seed(0)
    end = {name: torch.randn(one.shape, generator=generator) for name, one in line.start.items()}
    full = Line(line.model, line.start, end)
    group = [name for name in end if name.startswith("layers.1.")]
    found = thinned(full, [group], 0.25)
    sizes = torch.cat([end[name].abs().flatten() for name in group])
    bound = sizes.sort(descending=True).values[round(0.25 * len(sizes)) - 1]
    for name in end:
        kept = end[name].abs() >= bound if name in group else torch.ones_like(end[name], dtype=torch.bool)
        assert torch.equal(found.end[name], torch.where(kept, end[name], line.start[name]))
    assert sum(int((found.end[name] != 0).sum()) for name in group) == round(0.25 * len(sizes))
    assert all(torch.equal(a, b) for a, b in zip(thinned(full, [group], 1.0).end.values(), end.values(), strict=True))
    with pytest.raises(InputError, match="0 to 1"):
        thinned(full, [group], 5)


@pytest.mark.parametrize("base", ["tiny_llama", "tiny_bert", "tiny_t5"])
def test_halves_of_real_blocks_are_whole_and_apart(base, request):
    model = pairtune.Base.load(request.getfixturevalue(base)).model
    names = [name for name, _ in model.named_parameters()]
    halves, whole = layer_groups(model, names), layer_groups(model, names, halves=False)
    assert len(halves) == 2 * len(whole)
    for block, own in whole.items():
        both = halves[f"{block} attention"] + halves[f"{block} mlp"]
        assert sorted(both) == sorted(own)
    matrices = [name for name in halves["0 attention"] if "norm" not in name.lower() and "bias" not in name]
    assert matrices and all("att" in name.lower() for name in matrices)
    rest = [name for name in names if not any(name in own for own in whole.values())]
    assert any("embed" in name or "shared" in name for name in rest)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(InputError, match="no transformer block"):
        layer_groups(nn.Linear(2, 2), ["weight"])
    with pytest.raises(InputError, match="nothing changes"):
        layer_groups(Blocks(), ["head.weight"])


def test_heights_are_of_the_chord_not_of_the_ends(line):
    groups = {"all": list(line.start)}
    found = layer_paths(line, groups, lambda: float(line.model.layers[0]["attn"].bias.mean()) ** 2)["all"]
    assert np.allclose(found.heights, [a**2 - a for a in found.places])
