"""Where two deltas meet: counts, signs and angle against a direct computation, and what is left out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pairtune.analysis.interference import between, interference, table
from pairtune.errors import DeltaMismatch
from pairtune.pair.delta import Delta
from pairtune.pair.parts import Dense, LowRank, Module, Rows, Sparse

VALUES = st.lists(st.sampled_from([0.0, 0.0, 1.5, -2.0, 1e-30]), min_size=6, max_size=6)


@settings(max_examples=80, deadline=None)
@given(VALUES, VALUES, st.booleans(), st.booleans())
def test_counts_and_angle_are_the_direct_ones(one, two, sparse, alone):
    a, b = torch.tensor(one).view(2, 3), torch.tensor(two).view(2, 3)
    first = {"w": Sparse((2, 3), a.flatten().nonzero().squeeze(1), a[a != 0]) if sparse else Dense(a)}
    second = {"w": Dense(b), **({"v": Dense(torch.ones(4))} if alone else {})}
    found = interference(Delta(first), Delta(second))
    assert found.changed == (int((a != 0).sum()), int((b != 0).sum()) + 4 * alone)
    assert found.shared == int(((a != 0) & (b != 0)).sum())
    assert found.conflicts == sum(x * y < 0 for x, y in zip(one, two, strict=True))
    lengths = a.double().norm() * (b.double().square().sum() + 4 * alone).sqrt()
    if lengths:
        assert found.cosine == pytest.approx(float((a.double() * b.double()).sum() / lengths), abs=1e-9)
    else:
        assert found.cosine is None
    turned = interference(Delta(second), Delta(first))
    assert (turned.shared, turned.conflicts, turned.changed) == (found.shared, found.conflicts, found.changed[::-1])


def test_a_delta_and_its_opposite():
    delta = Delta({"w": LowRank(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0]]))})
    found = interference(delta, -delta)
    assert (found.changed, found.shared, found.conflicts) == ((2, 2), 2, 2)
    assert (found.overlap, found.opposed, found.cosine) == (1.0, 1.0, pytest.approx(-1.0))


def test_heads_are_left_out_new_rows_are_ones_own_and_other_widths_are_refused():
    grown = Delta({"e": Rows(2, torch.ones(1, 3), Dense(torch.ones(2, 3))), "head": Module(torch.ones(3))})
    plain = Delta({"e": Dense(torch.ones(2, 3)), "head": Module(torch.ones(3))})
    found = interference(grown, plain)
    assert (found.changed, found.shared) == ((9, 6), 6)
    with pytest.raises(DeltaMismatch, match=r"e: the shapes differ: \[2, 3\] in one delta, \[2, 4\]"):
        interference(plain, Delta({"e": Dense(torch.ones(2, 4))}))


def test_every_pair_of_several_is_a_row():
    deltas = {
        name: Delta({"w": Dense(torch.tensor(v))}) for name, v in {"a": [1.0, 0], "b": [0, 1.0], "c": [-1.0, 0]}.items()
    }
    found = between(deltas)
    assert list(found) == ["a + b", "a + c", "b + c"]
    assert [tuple(row) for row in table(found).rows] == [
        ("a + b", "0", "0.0%", "0.0%", "+0.000"),
        ("a + c", "1", "100.0%", "100.0%", "-1.000"),
        ("b + c", "0", "0.0%", "0.0%", "+0.000"),
    ]
