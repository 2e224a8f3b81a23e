"""Every kind of change against a dense float64 reference: difference, scale, norm, and base + change rounded once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pairtune.errors import DeltaMismatch, InputError, MissingView
from pairtune.pair.parts import Dense, LowRank, Module, Part, Rows, Sign, Sparse, Value

KINDS = ("dense", "value", "sparse", "low-rank", "rows", "rows+value", "rows+low-rank", "rows+sparse", "sign")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
quick = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def normal(rng, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)


def make(kind: str, rng, base: torch.Tensor, dtype=torch.float32) -> tuple[Part, torch.Tensor]:
    """A random part of a kind, and its difference in float64, formed another way than the part forms it."""
    d_out, d_in = base.shape
    outer, _, inner = kind.partition("+")
    if outer == "rows":
        rows = normal(rng, 2, d_in, dtype=dtype)
        old, below = make(inner, rng, base, dtype) if inner else (None, torch.zeros(d_out, d_in).double())
        return Rows(d_out, rows, old), torch.cat([below, rows.double()])
    if kind == "dense":
        diff = normal(rng, d_out, d_in, dtype=dtype)
        return Dense(diff), diff.double()
    if kind == "value":
        value = normal(rng, d_out, d_in, dtype=dtype)
        return Value(value), value.double() - base.double()
    if kind == "sparse":
        count = int(torch.randint(d_out * d_in + 1, (), generator=rng))
        index = torch.randperm(d_out * d_in, generator=rng)[:count]
        values = normal(rng, count, dtype=dtype)
        dense = torch.tensor([0.0] * (d_out * d_in), dtype=torch.float64)
        for i, value in zip(index.tolist(), values.tolist(), strict=True):
            dense[i] = value
        return Sparse.of((d_out, d_in), index, values), dense.view(d_out, d_in)
    if kind == "sign":
        signs = torch.randint(2, (d_out * d_in,), generator=rng)
        places = [sum(int(bit) << k for k, bit in enumerate(eight)) for eight in signs.split(8) if len(eight)]
        part = Sign((d_out, d_in), torch.tensor(places, dtype=torch.uint8), torch.tensor(0.3, dtype=dtype))
        return part, float(torch.tensor(0.3, dtype=dtype)) * torch.where(
            signs.view(d_out, d_in) > 0, 1.0, -1.0
        ).double()
    rank = int(torch.randint(4, (), generator=rng))
    a, b = normal(rng, rank, d_in, dtype=dtype), normal(rng, d_out, rank, dtype=dtype)
    return LowRank(a, b, 0.7), 0.7 * torch.einsum("or,ri->oi", b.double(), a.double())


def close(found: torch.Tensor, expected: torch.Tensor, tolerance=1e-5) -> bool:
    return found.shape == expected.shape and torch.allclose(found.double(), expected.double(), 0, tolerance)


@given(st.sampled_from(KINDS), st.sampled_from(DTYPES), seeds, st.tuples(st.integers(0, 6), st.integers(0, 6)))
@quick
def test_difference_scale_and_norm_are_those_of_the_dense_tensor(kind, dtype, seed, shape):
    rng = torch.Generator().manual_seed(seed)
    base = normal(rng, *shape)
    part, dense = make(kind, rng, base, dtype)
    assert tuple(dense.shape) == part.shape
    assert part.base_shape == shape
    assert close(part.difference(base), dense)
    assert part.difference(base).dtype == torch.float32
    assert close(part.difference(base, torch.float64), dense, 1e-12)
    assert close(part.difference(base, torch.bfloat16), dense.bfloat16(), 5e-2)
    assert part.norm(base) == pytest.approx(float(dense.norm()), rel=1e-12, abs=1e-12)
    assert part.scaled(1.0) is part
    for alpha in (-0.3, 2):
        assert close(part.scaled(alpha, base).difference(base), alpha * dense, 1e-4)
    assert part.is_finite()
    assert part.nbytes == sum(len(t.contiguous().view(-1).view(torch.uint8)) for t in part.tensors().values())


@given(st.sampled_from(KINDS), st.sampled_from(DTYPES), st.sampled_from(DTYPES), seeds)
@quick
def test_base_plus_change_is_rounded_once_to_the_bases_type(kind, dtype, base_dtype, seed):
    rng = torch.Generator().manual_seed(seed)
    base = normal(rng, 5, 4, dtype=base_dtype)
    before = base.clone()
    part, dense = make(kind, rng, base, dtype)
    variant = part.apply(base)
    below = torch.cat([base.double(), torch.zeros(dense.shape[0] - 5, 4)])
    exact = below + dense
    assert variant.dtype == base_dtype
    assert torch.equal(base, before)
    half_a_unit = torch.finfo(base_dtype).eps / 2
    noise = 1e-5 if torch.float64 not in (dtype, base_dtype) else 1e-7  # float64 of the value, rounded to float32
    assert bool(((variant.double() - exact).abs() <= exact.abs() * half_a_unit + noise).all())


def bits(count: int, width: int):
    return st.lists(st.integers(-(2 ** (width - 1)), 2 ** (width - 1) - 1), min_size=count, max_size=count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(data=st.data())
@quick
def test_a_value_comes_back_bit_for_bit_whatever_the_base(dtype, data):
    width = dtype.itemsize * 8
    integer = {16: torch.int16, 32: torch.int32}[width]
    base, value = (torch.tensor(data.draw(bits(6, width)), dtype=integer).view(dtype) for _ in range(2))
    value = torch.where(value.isfinite(), value, torch.tensor(-0.0, dtype=dtype))
    found = Value(value).apply(base)
    assert torch.equal(found.view(integer), value.view(integer))
    rows = value.view(3, 2)
    grown = Rows(1, rows[1:], Value(rows[:1])).apply(base.view(3, 2)[:1])
    assert torch.equal(grown.view(integer), rows.view(integer))


def test_a_float32_difference_would_not_bring_the_value_back():
    base, value = torch.tensor([1000.0, 1.0]), torch.tensor([1e-7, 1.0])
    assert not torch.equal(Dense(value - base).apply(base), value)
    assert torch.equal(Value(value).apply(base), value)


def test_a_value_of_whole_numbers_replaces_and_nothing_else_does():
    base = torch.tensor([1, 2])
    assert torch.equal(Value(torch.tensor([5, 6])).apply(base), torch.tensor([5, 6]))
    assert torch.equal(Value(torch.tensor([5, 6])).difference(base), torch.tensor([4.0, 4.0]))
    with pytest.raises(DeltaMismatch, match="int64"):
        Value(torch.tensor([0.5, 6])).apply(base)
    with pytest.raises(DeltaMismatch, match="int64"):
        Dense(torch.ones(2)).apply(base)


def test_low_rank_norm_keeps_its_digits_where_the_factors_cancel():
    rng = torch.Generator().manual_seed(0)
    a, b, small = normal(rng, 2, 40), normal(rng, 30, 2), normal(rng, 1, 40) * 1e-9
    part = LowRank(torch.cat([a, a, small]), torch.cat([b, -b, torch.ones(30, 1)], 1), 2.0)
    expected = 2 * float((torch.ones(30, 1).double() @ small.double()).norm())
    assert part.norm() == pytest.approx(expected, rel=1e-4)  # Gram matrices give 1e-8 too much here


def test_sparse_leaves_the_other_numbers_as_they_are():
    base = torch.tensor([[-0.0, 1e-40], [3.0, 4.0]])
    found = Sparse((2, 2), torch.tensor([2]), torch.tensor([0.5])).apply(base)
    assert found.view(torch.int32)[0].tolist() == base.view(torch.int32)[0].tolist()
    assert found[1].tolist() == [3.5, 4.0]
    strided = torch.arange(6.0).view(2, 3).T
    assert Sparse((3, 2), torch.tensor([1]), torch.tensor([10.0])).apply(strided).tolist() == [[0, 13], [1, 4], [2, 5]]


def test_sparse_of_sorts_and_refuses_places_that_are_wrong():
    part = Sparse.of((2, 2), torch.tensor([3, 0]), torch.tensor([30.0, 1.0]))
    assert part.index.tolist() == [0, 3]
    assert part.values.tolist() == [1.0, 30.0]
    for index in ([0, 0], [0, 4], [-1, 2]):
        with pytest.raises(DeltaMismatch, match="twice or lie outside"):
            Sparse.of((2, 2), torch.tensor(index), torch.ones(2))
    with pytest.raises(DeltaMismatch, match="int64"):
        Sparse((2, 2), torch.tensor([0], dtype=torch.int32), torch.ones(1))
    with pytest.raises(DeltaMismatch, match="one length"):
        Sparse((2, 2), torch.tensor([0]), torch.ones(2))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(DeltaMismatch, match=r"A \[r, d_in\]"):
        LowRank(torch.ones(2, 3), torch.ones(4, 3))
    with pytest.raises(DeltaMismatch, match=r"\[4, 3\]"):
        Rows(4, torch.ones(1, 3), Dense(torch.ones(5, 3)))
    with pytest.raises(DeltaMismatch, match="rows"):
        Rows(4, torch.ones(1, 3), Rows(3, torch.ones(1, 3)))
    with pytest.raises(DeltaMismatch, match="float"):
        Dense(torch.ones(2, dtype=torch.int64))
    for part in (Dense(torch.ones(2, 3)), Value(torch.ones(2, 3)), LowRank(torch.ones(1, 3), torch.ones(2, 1))):
        with pytest.raises(DeltaMismatch, match=r"\[3, 2\].*\[2, 3\]"):
            part.apply(torch.ones(3, 2))
        with pytest.raises(DeltaMismatch, match=r"\[3, 2\].*\[2, 3\]"):
            part.difference(torch.ones(3, 2))
    with pytest.raises(DeltaMismatch, match=r"\[5, 3\].*\[4, 3\]"):
        Rows(4, torch.ones(1, 3)).apply(torch.ones(5, 3))


def test_a_value_without_its_base_says_what_is_missing():
    for part in (Value(torch.ones(2)), Rows(2, torch.ones(1, 3), Value(torch.ones(2, 3)))):
        for ask in (part.difference, part.norm, lambda part=part: part.scaled(0.5)):
            with pytest.raises(MissingView, match="base"):
                ask()


def test_a_module_refuses_arithmetic_and_says_what_works():
    part = Module(torch.ones(2, 3))
    for ask in (
        part.difference,
        lambda: part.apply(torch.ones(2, 3)),
        lambda: part.scaled(0.5),
        lambda: part.scaled(0.0),
    ):
        with pytest.raises(MissingView, match=r"drop\(\)"):
            ask()
    assert part.scaled(1) is part
    assert part.norm() == pytest.approx(6**0.5)
    scaled = Module(torch.ones(2, dtype=torch.bfloat16), scales=True).scaled(0.5)
    assert isinstance(scaled, Module)
    assert scaled.scales
    assert scaled.value.tolist() == [0.5, 0.5]


def test_only_finite_numbers_scale():
    for alpha in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="finite"):
            Dense(torch.ones(2)).scaled(alpha)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_seen_in_every_tensor(bad, monkeypatch):
    monkeypatch.setattr("pairtune.pair.part.CHUNK", 3)
    poisoned = torch.tensor([[1.0, 2.0], [3.0, bad]])
    fine, index = torch.ones(2, 2), torch.arange(4)
    assert not Dense(poisoned).is_finite()
    assert not Value(poisoned.bfloat16()).is_finite()
    assert not Sparse((4,), index, poisoned.view(-1)).is_finite()
    assert not LowRank(poisoned, fine).is_finite()
    assert not LowRank(fine, poisoned).is_finite()
    assert not LowRank(fine, fine, bad).is_finite()
    assert not Rows(2, poisoned).is_finite()
    assert not Rows(2, fine, LowRank(fine, fine, bad)).is_finite()
    assert not Module(poisoned).is_finite()
    assert Module(torch.ones(4, dtype=torch.float8_e4m3fn)).is_finite()
    assert Value(torch.arange(5)).is_finite()


def test_chunks_see_all_of_a_tensor(monkeypatch):
    monkeypatch.setattr("pairtune.pair.part.CHUNK", 3)
    monkeypatch.setattr("pairtune.pair.compact.CHUNK", 3)
    tensor = torch.arange(10.0)
    assert Dense(tensor).norm() == pytest.approx(285**0.5)
    assert Value(tensor).norm(torch.ones(10)) == pytest.approx((1 + sum(n * n for n in range(9))) ** 0.5)
    ascending = torch.arange(10)
    assert Sparse((10,), ascending, tensor).is_ordered()
    for at in range(1, 10):  # a step back at any place, the borders of chunks included
        index = ascending.clone()
        index[at] = index[at - 1]
        assert not Sparse((10,), index, tensor).is_ordered()


def test_nothing_is_read_when_a_part_is_made():
    """Tensors without memory: whatever read one would fail."""
    where = {"device": "meta"}
    matrix = torch.empty(6, 4, **where)
    for part in (
        Dense(matrix),
        Value(matrix),
        Module(matrix),
        LowRank(torch.empty(2, 4, **where), torch.empty(6, 2, **where)),
        Sparse((6, 4), torch.empty(3, dtype=torch.int64, **where), torch.empty(3, **where)),
        Rows(4, torch.empty(2, 4, **where), Value(torch.empty(4, 4, **where))),
    ):
        assert part.shape == (6, 4)
        assert part.nbytes > 0
        assert part.scaled(1.0) is part


@pytest.mark.parametrize("shape", [(), (3, 5), (2, 4, 4), (0, 3)])
def test_the_signs_of_a_change_and_its_mean_size(shape):
    change = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    part = Sign.of(change)
    size = float(change.abs().mean()) if change.numel() else 0.0
    assert close(part.difference(), torch.where(change > 0, size, -size).double(), 1e-6)
    assert torch.equal(part.part(0, change.numel(), torch.float32), part.difference().flatten())
    if change.numel() > 12:
        assert torch.equal(part.part(3, 12, torch.float32), part.difference().flatten()[3:12])
    left = float((change - part.difference()).double().square().sum())
    assert left == pytest.approx(float(change.double().square().sum()) - part.norm() ** 2, rel=1e-5, abs=1e-9)
