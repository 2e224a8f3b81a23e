"""The choice of the K largest of all entries, against sorting them."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pairtune.tuners.selection import largest


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_exactly_the_largest_are_chosen_and_ties_go_to_the_earlier_place(data):
    sizes = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=4).filter(sum))
    # Few distinct values, zeros among them, so that the border runs through many equal ones.
    values = st.sampled_from([0.0, 1e-38, 1e-3, 1.0, 1.0000001, 7.5, 3e38])
    tensors = {f"t{i}": torch.tensor(data.draw(st.lists(values, min_size=n, max_size=n))) for i, n in enumerate(sizes)}
    count = data.draw(st.integers(1, sum(sizes)))
    found = largest({name: (lambda t=t: t) for name, t in tensors.items()}, count)
    flat = [(-float(v), i, j) for i, t in enumerate(tensors.values()) for j, v in enumerate(t.tolist())]
    expected = {(i, j) for _, i, j in sorted(flat)[:count]}
    assert {(int(name[1:]), j) for name, index in found.items() for j in index.tolist()} == expected
    assert all(len(index) and torch.equal(index, index.sort().values) for index in found.values())
