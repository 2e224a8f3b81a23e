"""Effective rank, stable rank and spectra against known answers, and estimates against exact values."""

import math

import pytest
import torch

from pairtune.analysis import spectrum as room
from pairtune.analysis.spectrum import estimated, share_changed, spectrum
from pairtune.pair.parts import Dense, LowRank, Sparse, Value


def test_equal_singular_values_have_full_effective_rank():
    found = spectrum(Dense(3 * torch.eye(7, 5)))
    assert found.values == pytest.approx([3.0] * 5)
    assert found.effective_rank == pytest.approx(5)
    assert found.stable_rank == pytest.approx(5)
    assert (found.full, found.exact) == (5, True)
    assert found.changed == pytest.approx(5 / 35)


def test_two_values_give_the_entropy_by_hand():
    found = spectrum(Dense(torch.diag(torch.tensor([3.0, 1.0, 0.0]))))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found.effective_rank == pytest.approx(math.exp(entropy))
    assert found.stable_rank == pytest.approx(10 / 9)
    assert found.values == pytest.approx([3.0, 1.0])


def test_thin_factors_give_the_spectrum_of_their_product():
    torch.manual_seed(0)
    part = LowRank(torch.randn(3, 40).double(), torch.randn(60, 3).double(), scale=0.5)
    found, product = spectrum(part), 0.5 * part.B @ part.A
    assert found.values == pytest.approx(torch.linalg.svdvals(product)[:3].tolist())
    assert found.effective_rank == pytest.approx(spectrum(Dense(product)).effective_rank, rel=1e-4)
    assert found.full == 3
    assert found.changed is None and share_changed(part) is None


def test_a_product_is_never_formed(monkeypatch):
    def refuse(*_):
        raise AssertionError("the product was formed")

    monkeypatch.setattr(LowRank, "difference", refuse)
    assert spectrum(LowRank(torch.ones(2, 5), torch.ones(6, 2))).effective_rank == pytest.approx(1, abs=1e-6)


def test_nothing_changed_has_no_rank():
    found = spectrum(Value(torch.ones(4, 3)), torch.ones(4, 3))
    assert (found.values, found.effective_rank, found.stable_rank, found.changed) == ([], 0.0, 0.0, 0.0)
    assert spectrum(LowRank(torch.zeros(2, 5), torch.ones(6, 2))).effective_rank == 0.0


def test_the_share_of_changed_entries_is_counted():
    part = Sparse((4, 5), torch.tensor([1, 7, 9]), torch.tensor([1.0, 0.0, 2.0]))
    assert spectrum(part).changed == pytest.approx(2 / 20)
    assert share_changed(Dense(torch.tensor([0.0, 1.0]))) == 0.5


@pytest.mark.parametrize("kind", ["flat", "steep", "low-rank and noise"])
def test_estimates_agree_with_exact_values(kind, monkeypatch):
    torch.manual_seed(1)
    matrix = torch.randn(400, 300)
    if kind == "steep":
        matrix = matrix @ torch.diag(torch.arange(1, 301.0) ** -1)
    elif kind == "low-rank and noise":
        matrix = torch.randn(400, 10) @ torch.randn(10, 300) + 0.02 * matrix
    exact = spectrum(Dense(matrix))
    monkeypatch.setattr(room, "EXACT", 100)
    found = spectrum(Dense(matrix.T))  # wide ones are turned round
    assert exact.exact and not found.exact
    assert found.effective_rank == pytest.approx(exact.effective_rank, rel=0.03)
    assert found.values[:10] == pytest.approx(exact.values[:10], rel=0.05)
    assert found.stable_rank == pytest.approx(exact.stable_rank, rel=0.1)


def test_an_estimate_of_an_exact_low_rank_is_that_rank():
    torch.manual_seed(2)
    left, right = torch.linalg.qr(torch.randn(500, 4)).Q, torch.linalg.qr(torch.randn(200, 4)).Q
    assert estimated(left @ right.T).effective_rank == pytest.approx(4, rel=0.02)
