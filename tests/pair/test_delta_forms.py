"""Changes of kind: exact both ways, or refused with the rank that it would take."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.pair.deltas import BASE, deltas, dense, normal, quick

from pairtune.errors import DeltaMismatch, InputError
from pairtune.pair.delta import Delta
from pairtune.pair.parts import Dense, LowRank, Sparse


@given(deltas(), st.sampled_from(["dense", "sparse"]))
@quick
def test_dense_and_sparse_are_exact_forms_of_each_other(delta, kind):
    found = delta.to(kind)
    assert {part.kind for part in found.values()} <= {kind, "rows"}
    for name, part in found.items():
        assert torch.equal(part.difference(BASE[name]), delta[name].difference(BASE[name]))
    back = found.to("dense")
    assert all(torch.equal(dense(back)[name], dense(found)[name]) for name in BASE)


def test_sparse_leaves_out_exact_zeros_only():
    diff = torch.tensor([[0.0, 1e-45, -0.0], [float("inf"), 2.0, 0.0]])
    part = Delta({"w": Dense(diff)}).to("sparse")["w"]
    assert part.index.tolist() == [1, 3, 4]  # type: ignore[attr-defined]
    again = Delta({"w": Sparse((3,), torch.tensor([0, 2]), torch.tensor([0.0, 5.0]))}).to("sparse")["w"]
    assert again.index.tolist() == [2]  # type: ignore[attr-defined]


@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
@quick
def test_low_rank_finds_the_rank_that_is_there(seed, rank):
    rng = torch.Generator().manual_seed(seed)
    product = (normal(rng, 20, rank).double() @ normal(rng, rank, 16).double()).float()
    part = Delta({"w": Dense(product)}).to("low-rank")["w"]
    assert isinstance(part, LowRank)
    assert part.rank == rank
    assert torch.allclose(part.difference(), product, atol=1e-5)


def test_low_rank_says_which_rank_it_would_need():
    rng = torch.Generator().manual_seed(0)
    delta = Delta({"a": Dense(normal(rng, 8, 2) @ normal(rng, 2, 8)), "b": Dense(normal(rng, 8, 8))})
    with pytest.raises(DeltaMismatch, match=r"^b: its numerical rank is 8.*rank=8"):
        delta.to("low-rank")
    with pytest.raises(DeltaMismatch, match=r"^b: its numerical rank is 8, so that rank 3 would lose.*rank=8"):
        delta.to("low-rank", rank=3)
    full = delta.to("low-rank", rank=8)
    assert {name: part.rank for name, part in full.items()} == {"a": 2, "b": 8}  # type: ignore[attr-defined]
    assert torch.allclose(full.difference("b"), delta.difference("b"), atol=1e-5)
    with pytest.raises(DeltaMismatch, match=r"^v: .*only matrices"):
        Delta({"v": Dense(torch.ones(4))}).to("low-rank")
    with pytest.raises(DeltaMismatch, match="NaN"):
        Delta({"v": Dense(torch.full((4, 4), float("nan")))}).to("low-rank")
    with pytest.raises(InputError, match=r"'lora'.*low-rank"):
        delta.to("lora")


def test_a_low_rank_sum_is_brought_back_to_the_rank_that_it_has():
    rng = torch.Generator().manual_seed(1)
    a, b = (Delta({"w": LowRank(normal(rng, 2, 30), normal(rng, 20, 2), 0.5)}) for _ in range(2))
    wide = (a + b) - b
    assert wide["w"].rank == 6  # type: ignore[attr-defined]
    thin = wide.to("low-rank")["w"]
    assert isinstance(thin, LowRank)
    assert thin.rank == 2
    assert torch.allclose(thin.difference(), a.difference("w"), atol=1e-5)
    assert (a - a).to("low-rank")["w"].rank == 0  # type: ignore[attr-defined]
    assert a.to("low-rank")["w"] is a["w"]
