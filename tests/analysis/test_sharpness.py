"""Sharpness against closed forms and brute force, its invariance, and weights that come back to the bit."""

from itertools import product

import pytest
import torch
from torch import nn

from pairtune.analysis.sharpness import average_case, checkpoints, normalised, worst_case
from pairtune.errors import NonFiniteError


class Point(nn.Module):
    """A model that is nothing but two vectors of weights."""

    def __init__(self, first, second=(1.0,)):
        super().__init__()
        self.first = nn.Parameter(torch.tensor(first, dtype=torch.float64))
        self.second = nn.Parameter(torch.tensor(second, dtype=torch.float64))


def test_of_a_linear_loss_the_worst_case_is_the_radius_times_the_slope():
    model = Point([2.0, -1.0, 0.0, 4.0])
    slope = torch.tensor([1.0, 3.0, 50.0, -0.5], dtype=torch.float64)
    found = worst_case(model, lambda batch: batch * (slope * model.first).sum(), [1.0], rho=0.1, iterations=4)
    assert found == pytest.approx(0.1 * (1 * 2 + 3 * 1 + 0 + 0.5 * 4))


def test_every_batch_is_attacked_on_its_own():
    model = Point([2.0])
    found = worst_case(model, lambda batch: (batch * model.first).sum(), [1.0, -1.0], rho=0.1, iterations=3)
    assert found == pytest.approx(0.2)  # together the batches' losses would be flat


def test_of_a_convex_loss_the_worst_case_is_the_highest_corner():
    generator = torch.Generator().manual_seed(0)
    model = Point(torch.randn(6, generator=generator).tolist())
    root = torch.randn(6, 6, generator=generator).double()
    goal = torch.randn(6, generator=generator).double()

    def loss(_batch):
        return (root @ (model.first - goal)).square().sum()

    centre = model.first.detach().clone()
    corners = [centre + 0.02 * centre.abs() * torch.tensor(signs).double() for signs in product((-1, 1), repeat=6)]
    highest = max(float((root @ (corner - goal)).square().sum()) for corner in corners)
    assert worst_case(model, loss, [None], rho=0.02, iterations=40) == pytest.approx(highest - float(loss(None)))


def test_steps_that_overshoot_are_halved_until_they_help():
    model = Point([1.0])
    # The top lies at 0.03 of the box' half width 0.1: the first steps jump to and fro across it.
    found = worst_case(model, lambda _: -(model.first - 1.03).square().sum(), [None], rho=0.1, iterations=60)
    assert found == pytest.approx(0.03**2, rel=0.02)


def test_the_average_case_of_a_square():
    model = Point([2.0, -1.0])
    curve = torch.tensor([1.0, 3.0], dtype=torch.float64)
    centre = model.first.detach().clone()
    loss = lambda _: 0.5 * (curve * (model.first - centre).square()).sum()  # noqa: E731
    found = average_case(model, loss, [None], 0.2, draws=5000)
    assert found == pytest.approx(0.5 * 0.2**2 * (1 * 4 + 3 * 1), rel=0.05)


def test_only_the_named_weights_move():
    model = Point([2.0], [3.0])

    def loss(_batch):
        return (model.first + 10 * model.second).sum()

    assert worst_case(model, loss, [None], 0.1, names=["first"], iterations=3) == pytest.approx(0.2)
    assert average_case(model, loss, [None], 0.1, names=["first"], draws=50) == pytest.approx(0, abs=0.1)


def test_scaling_one_layer_up_and_the_next_down_changes_nothing():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
    x, y = torch.randn(16, 4).double(), torch.randint(0, 3, (16,))

    def measure():
        loss = lambda batch: nn.functional.cross_entropy(net(batch), y)  # noqa: E731
        return worst_case(net, loss, [x], 0.05, iterations=10), average_case(net, loss, [x], 0.05)

    before = measure()
    with torch.no_grad():
        net[0].weight.mul_(8.0)
        net[2].weight.div_(8.0)
    assert measure() == pytest.approx(before, rel=1e-9)
    assert before[0] > max(before[1], 0)


def test_weights_modes_and_objects_come_back():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    x, y = torch.randn(16, 4), torch.randint(0, 3, (16,))
    objects, values = list(net.parameters()), [one.detach().clone() for one in net.parameters()]

    def loss(batch):
        assert not net.training
        return nn.functional.cross_entropy(net(batch), y)

    with torch.no_grad():
        net.eval()
        before = float(loss(x))
        net.train()
    assert worst_case(net, loss, [x, x], 0.5, iterations=7) > 0
    assert average_case(net, loss, [x, x], 0.5) != 0
    assert all(a is b for a, b in zip(objects, net.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(values, net.parameters(), strict=True))
    assert all(one.requires_grad and one.grad is None for one in net.parameters()) and net.training
    net.eval()
    assert float(loss(x)) == before

    def broken(_batch):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        worst_case(net, broken, [x], 0.5)
    assert all(a is b for a, b in zip(objects, net.parameters(), strict=True))


def test_two_batches_in_turn_begin_at_the_same_weights():
    """The ascent of the first batch leaves no residue for the second."""
    model = Point([1.0, 2.0])
    alone = worst_case(model, lambda batch: (batch * model.first.exp()).sum(), [1.0], 0.1, iterations=5)
    twice = worst_case(model, lambda batch: (batch * model.first.exp()).sum(), [1.0, 1.0], 0.1, iterations=5)
    assert twice == alone


def test_normalised_logits_have_no_scale():
    logits = torch.randn(5, 7, dtype=torch.float64)
    assert torch.allclose(normalised(100 * logits + 3), normalised(logits))
    assert torch.allclose(normalised(logits).norm(dim=-1), torch.ones(5).double())
    assert torch.isfinite(normalised(torch.zeros(2, 3))).all()


def test_the_schedule_is_auto_pgds():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == []


def test_a_loss_that_is_not_a_number_is_named():
    model = Point([1.0])
    with pytest.raises(NonFiniteError, match="sharpness"):
        worst_case(model, lambda _: (model.first * float("nan")).sum(), [None], 0.1)
