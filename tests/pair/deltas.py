"""Deltas of every kind for the tests of their algebra, and the dense tensors that they stand for."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st

from pairtune.pair.delta import Delta
from pairtune.pair.parts import Dense, LowRank, Part, Rows, Sign, Sparse, Value

SHAPES = {"layers.2.w": (5, 4), "layers.10.w": (3, 6), "norm.weight": (7,)}
KINDS = ("dense", "value", "sparse", "low-rank", "rows", "sign")
ONE = {"layers.2.w": (5, 4)}
quick = settings(max_examples=40, deadline=None)
scalars = st.floats(-3, 3, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-3)


def normal(rng, *shape):
    return torch.randn(shape, generator=rng)


BASE = {name: normal(torch.Generator().manual_seed(i), *shape) for i, (name, shape) in enumerate(SHAPES.items())}


def make(kind: str, rng, name: str) -> Part:
    shape = SHAPES[name]
    if kind == "value":
        return Value(normal(rng, *shape))
    if kind == "sparse":
        count = BASE[name].numel() // 2
        return Sparse.of(shape, torch.randperm(BASE[name].numel(), generator=rng)[:count], normal(rng, count))
    if kind == "sign":
        return Sign.of(normal(rng, *shape))
    if kind == "low-rank" and len(shape) == 2:
        return LowRank(normal(rng, 2, shape[1]), normal(rng, shape[0], 2), float(normal(rng)))
    if kind == "rows" and len(shape) == 2:
        old = (None, Value(normal(rng, *shape)), make("low-rank", rng, name))[int(torch.randint(3, (), generator=rng))]
        return Rows(shape[0], normal(rng, 2, shape[1]), old)
    return Dense(normal(rng, *shape))


@st.composite
def deltas(draw, kinds=KINDS, names=tuple(SHAPES)) -> Delta:
    """Some of the tensors, each changed in some way."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    chosen = draw(st.lists(st.sampled_from(names), unique=True, max_size=len(names)))
    return Delta({name: make(draw(st.sampled_from(kinds)), rng, name) for name in chosen}, base=BASE.__getitem__)


def dense(delta: Delta) -> dict[str, torch.Tensor]:
    """The change of every tensor in float64, with room for added rows; zero where the delta names none."""
    found = {}
    for name, base in BASE.items():
        out = torch.zeros(base.shape[0] + 2, *base.shape[1:], dtype=torch.float64)
        if name in delta:
            difference = delta[name].difference(base, torch.float64)
            out[: len(difference)] = difference
        found[name] = out
    return found


def same(found: Delta, expected: dict[str, torch.Tensor], tolerance: float = 2e-5) -> bool:
    return all(torch.allclose(d, expected[name], 0, tolerance) for name, d in dense(found).items())


def combined(*terms: tuple[float, Delta]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([s * dense(delta)[name] for s, delta in terms]).sum(0) for name in BASE}


def one(part: Part, **keywords) -> Delta:
    return Delta({"layers.2.w": part}, **keywords)
