"""The algebra of deltas against dense float64 tensors, over all mixtures of kinds; what it keeps cheap, and refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from tests.pair.deltas import BASE, ONE, combined, deltas, dense, make, one, quick, same, scalars

from pairtune.errors import DeltaMismatch, InputError, MissingView
from pairtune.pair.delta import Delta
from pairtune.pair.parts import Dense, LowRank, Module, Rows, Sparse, Value

# -- the laws --------------------------------------------------------------------------------------------------------


@given(deltas(), deltas(), deltas())
@quick
def test_sums_are_commutative_and_associative(a, b, c):
    assert same(a + b, combined((1, a), (1, b)))
    assert same(b + a, combined((1, a), (1, b)))
    everything = combined((1, a), (1, b), (1, c))
    assert same((a + b) + c, everything)
    assert same(a + (b + c), everything)
    assert same(sum([a, b, c]), everything)  # type: ignore[arg-type]


@given(deltas(), deltas())
@quick
def test_differences_undo_sums(a, b):
    assert same(a - b, combined((1, a), (-1, b)))
    assert same((a + b) - b, dense(a))
    assert same(a - a, combined((0, a)))
    assert same(-a, combined((-1, a)))


@given(deltas(), deltas(), scalars, scalars)
@quick
def test_scaling_is_distributive(a, b, alpha, beta):
    assert same(alpha * a, combined((alpha, a)))
    assert same(alpha * (a + b), combined((alpha, a), (alpha, b)), 1e-4)
    assert same(alpha * a + alpha * b, combined((alpha, a), (alpha, b)), 1e-4)
    assert same((alpha + beta) * a, combined((alpha + beta, a)), 1e-4)
    if alpha:
        assert same((alpha * a) / alpha, dense(a), 1e-4)


@given(deltas(names=tuple(ONE)), deltas(names=tuple(ONE)), scalars)
@quick
def test_norms_of_sums_are_those_of_the_dense_tensors(a, b, alpha):
    total = a + alpha * b
    norms = total.norms()
    for name in total:
        expected = float(dense(total)[name].norm())
        assert norms.tensors[name].absolute == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert norms.tensors[name].relative == pytest.approx(expected / float(BASE[name].double().norm()), rel=1e-9)


@given(deltas())
@quick
def test_nothing_that_is_combined_changes(a):
    before, base = dense(a), {name: tensor.clone() for name, tensor in BASE.items()}
    _ = a + a, a - a, 0.5 * a, a.norms(), a.to("dense"), [a.apply(name, BASE[name]) for name in BASE]
    assert all(torch.equal(before[name], found) for name, found in dense(a).items())
    assert all(torch.equal(base[name], tensor) for name, tensor in BASE.items())


# -- what stays cheap, and exact ---------------------------------------------------------------------------------------


def test_low_rank_and_sparse_stay_what_they_are():
    rng = torch.Generator().manual_seed(0)
    low = [make("low-rank", rng, "layers.2.w") for _ in range(2)]
    total = (one(low[0]) + one(low[1]) * 3)["layers.2.w"]
    assert isinstance(total, LowRank)
    assert total.rank == 4
    sparse = [Sparse((5, 4), torch.tensor(i), torch.tensor(v)) for i, v in (([1, 3], [1.0, 2.0]), ([3, 9], [5.0, 7.0]))]
    union = (one(sparse[0]) - one(sparse[1]))["layers.2.w"]
    assert isinstance(union, Sparse)
    assert union.index.tolist() == [1, 3, 9]
    assert union.values.tolist() == [1.0, -3.0, -7.0]
    mixed = (one(low[0]) + one(sparse[0]))["layers.2.w"]
    assert isinstance(mixed, Dense)
    half = one(Sparse((5, 4), torch.tensor([1]), torch.tensor([1.0], dtype=torch.bfloat16)))
    assert (half + half)["layers.2.w"].values.dtype == torch.float32  # type: ignore[attr-defined]


def test_low_rank_sums_survive_scales_of_zero_and_of_very_different_size():
    a, b = torch.ones(1, 4), torch.ones(5, 1)
    for first, second in ((0.0, 0.0), (0.0, 2.0), (1e-30, 1e10), (1e10, -1e-30)):
        total = (one(LowRank(a, b, first)) + one(LowRank(a, b, second)))["layers.2.w"]
        assert total.difference()[0, 0].item() == pytest.approx(first + second)


def test_one_times_a_value_is_that_value_and_zero_is_nothing():
    def unread(name):
        raise AssertionError(f"{name} was read")

    delta = one(Value(torch.ones(5, 4, dtype=torch.bfloat16)), base=unread)
    assert (1 * delta)["layers.2.w"] is delta["layers.2.w"]
    assert len(0 * delta) == 0
    assert len(0 * Delta({"v": Module(torch.ones(3), scales=True)})) == 0
    other = Delta({"norm.weight": Dense(torch.ones(7))}, base=unread)
    assert (delta + other)["layers.2.w"] is delta["layers.2.w"]
    assert (other + delta)["layers.2.w"] is delta["layers.2.w"]
    assert (other - 0 * delta)["norm.weight"] is other["norm.weight"]
    assert (
        delta.apply("layers.2.w", torch.zeros(5, 4, dtype=torch.bfloat16)).data_ptr()
        == delta["layers.2.w"].value.data_ptr()
    )  # type: ignore[attr-defined]


def test_values_of_another_base_are_compared_with_their_own():
    other_base = {name: tensor + 1 for name, tensor in BASE.items()}
    ours = one(Value(BASE["layers.2.w"] + 0.25), base=BASE.__getitem__)
    theirs = one(Value(other_base["layers.2.w"] + 0.5), base=other_base.__getitem__)
    for delta in (Delta({}, base=BASE.__getitem__) + theirs, theirs + ours - ours):
        assert delta.difference("layers.2.w").mean().item() == pytest.approx(0.5, abs=1e-6)
    assert (ours + theirs).difference("layers.2.w").mean().item() == pytest.approx(0.75, abs=1e-6)


def test_added_rows_add_up_and_leave_the_old_ones_alone():
    a, b = Rows(5, torch.ones(2, 4)), Rows(5, 2 * torch.ones(2, 4), Dense(torch.ones(5, 4)))
    total = (one(a) - one(b))["layers.2.w"]
    assert isinstance(total, Rows)
    assert total.rows.unique().tolist() == [-1.0]
    low = LowRank(torch.ones(1, 4), torch.ones(5, 1))
    grown = (one(low) + one(a))["layers.2.w"]
    assert isinstance(grown, Rows)
    assert grown.old is low
    assert grown.rows is a.rows
    with pytest.raises(DeltaMismatch, match=r"layers\.2\.w.*\[7, 4\].*\[8, 4\]"):
        _ = one(a) + one(Rows(5, torch.ones(3, 4)))


def test_the_sum_is_made_in_float32_and_rounded_once():
    base = torch.full((5, 4), 256.0, dtype=torch.bfloat16)  # the next one is 258
    # 0.99 and 0.12 would each be rounded away or up if they met the base one by one, or in its type.
    delta = one(Dense(torch.full((5, 4), 0.99))) + one(LowRank(torch.full((1, 4), 0.12), torch.ones(5, 1)))
    assert delta.apply("layers.2.w", base).unique().tolist() == [258.0]
    assert delta.apply("layers.2.w", base).dtype == torch.bfloat16


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_the_first_tensor_that_does_not_fit_is_named_before_any_work():
    def unread(name):
        raise AssertionError(f"{name} was read")

    good, bad = Value(torch.ones(2)), {"layers.9.w": Dense(torch.ones(2, 3)), "layers.10.w": Dense(torch.ones(3))}
    fine = {"layers.9.w": Dense(torch.ones(3, 2)), "layers.10.w": Dense(torch.ones(4))}
    with pytest.raises(DeltaMismatch, match=r"^layers\.9\.w.*\[2, 3\].*\[3, 2\]"):
        _ = Delta({"layers.1.w": good, **bad}, base=unread) + Delta({"layers.1.w": good, **fine}, base=unread)
    with pytest.raises(DeltaMismatch, match=r"^layers\.2\.w"):
        one(Dense(torch.ones(5, 4))).apply("layers.2.w", torch.ones(4, 5))


def test_a_value_without_a_base_is_named():
    delta = one(Value(torch.ones(5, 4)))
    for ask in (lambda: 0.5 * delta, lambda: delta + delta, delta.norms, lambda: delta.to("dense")):
        with pytest.raises(MissingView, match=r"^layers\.2\.w.*base"):
            ask()


def test_modules_stand_on_one_side_only():
    head = Delta({"classifier.weight": Module(torch.ones(2, 4)), "norm.weight": Dense(torch.ones(7))})
    body = Delta({"norm.weight": Dense(torch.ones(7))})
    assert (head + body)["classifier.weight"] is head["classifier.weight"]
    assert (body + head)["classifier.weight"] is head["classifier.weight"]
    for ask in (lambda: head + head, lambda: body - head, lambda: 0.5 * head, lambda: 0 * head, lambda: -head):
        with pytest.raises(MissingView, match=r"^classifier\.weight.*drop"):
            ask()
    assert list(0.5 * head.drop("classifier.*")) == ["norm.weight"]
    assert list(head.norms().tensors) == ["norm.weight"]
    assert list(head.to("sparse")) == list(head)
    steering = Delta({"v": Module(torch.ones(3), scales=True)})
    assert (0.5 * steering)["v"].value.tolist() == [0.5] * 3  # type: ignore[attr-defined]


def test_division_by_zero_and_strange_factors():
    delta = one(Dense(torch.ones(5, 4)))
    with pytest.raises(InputError, match="divided by 0"):
        _ = delta / 0
    with pytest.raises(InputError, match="finite"):
        _ = delta * float("nan")
    other: Any = delta
    for strange in (lambda: other + 1, lambda: other * other, lambda: other / other, lambda: 1 + other):
        with pytest.raises(TypeError):
            strange()


# -- names, norms, conversions -----------------------------------------------------------------------------------------


def test_order_selection_and_summary():
    names = ["decoder.block.0.w", "encoder.block.10.w", "encoder.block.2.w", "shared.weight"]
    delta = Delta({name: Dense(torch.ones(2)) for name in reversed(names)}, record={"run": 1})
    assert list(delta) == ["decoder.block.0.w", "encoder.block.2.w", "encoder.block.10.w", "shared.weight"]
    assert list(delta.select("encoder.*")) == ["encoder.block.2.w", "encoder.block.10.w"]
    assert list(delta.select("shared.*", re.compile(r"block\.1?0\."))) == [*names[:2], "shared.weight"]
    assert list(delta.drop("*.block.*")) == ["shared.weight"]
    assert delta.drop("shared.*").record == {"run": 1}
    for ask in (delta.select, delta.drop):
        with pytest.raises(DeltaMismatch, match=r"'encodr\.\*'.*decoder\.block\.0\.w"):
            ask("encoder.*", "encodr.*")
    assert delta.summary().splitlines()[0] == "4 tensors (4 dense), 32 bytes"
    assert "  encoder.block.10: 1 tensor (1 dense), 8 bytes" in delta.summary().splitlines()
    assert repr(Delta({})) == "<Delta: no tensors>"
    assert delta.nbytes == 32


def test_norms_by_layer_keep_encoder_and_decoder_apart():
    parts = {
        "encoder.block.0.layer.1.a": Dense(torch.tensor([3.0])),
        "encoder.block.0.layer.0.b": Sparse((2,), torch.tensor([1]), torch.tensor([4.0])),
        "decoder.block.0.a": Dense(torch.tensor([2.0])),
        "final_norm.weight": Dense(torch.tensor([1.0])),
    }
    base = {name: 10 * torch.ones(part.shape) for name, part in parts.items()}
    norms = Delta(parts, base=base.__getitem__).norms()
    assert {name: norm.absolute for name, norm in norms.layers.items()} == {
        "decoder.block.0": 2,
        "encoder.block.0": 5,
        "final_norm": 1,
    }
    assert norms.layers["encoder.block.0"].relative == pytest.approx(5 / 300**0.5)
    assert norms.total.absolute == pytest.approx(30**0.5)
    bare = Delta(parts).norms(by=r"^(encoder|decoder)")
    assert list(bare.layers) == ["decoder", "encoder", "final_norm"]
    assert bare.total.relative is None
    zero = Delta({"b": Dense(torch.ones(2))}, base=lambda name: torch.zeros(2)).norms()
    assert zero.total.relative is None


def test_a_base_of_another_shape_is_named_by_norms():
    with pytest.raises(DeltaMismatch, match=r"^layers\.2\.w"):
        one(Dense(torch.ones(4, 4)), base=BASE.__getitem__).norms()


def test_finiteness_names_the_tensors():
    delta = Delta({"b": Dense(torch.tensor([float("nan")])), "a": Dense(torch.ones(1)), "c": Value(torch.ones(2) / 0)})
    assert delta.non_finite_names() == ["b", "c"]
    assert not delta.is_finite()
    assert delta.select("a").is_finite()


def test_a_sum_records_what_both_sides_agree_on():
    part = {"w": Dense(torch.ones(2))}
    a, b = Delta(part, record={"base": "x", "seed": 1}), Delta(part, record={"base": "x", "seed": 2, "more": 0})
    assert (a + b).record == {"base": "x"}
    assert (2 * a).record == a.record


def test_a_tensor_that_is_not_named_is_handed_back():
    tensor = torch.ones(3)
    assert Delta({}).apply("w", tensor) is tensor
