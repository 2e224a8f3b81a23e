"""Directions read off a delta, against a direct decomposition in float64; and what they do to a model."""

from types import SimpleNamespace

import pytest
import torch

from pairtune.editing.scrub.identify import alike, chance, identify
from pairtune.editing.scrub.looking import refuse
from pairtune.editing.scrub.offtopic import OffTopic, ablated
from pairtune.errors import InputError
from pairtune.pair.base import Base
from pairtune.pair.delta import Delta
from pairtune.pair.installed import Installed
from pairtune.pair.pair import Layer, Pair
from pairtune.pair.parts import Dense, LowRank
from pairtune.pair.residual import stream_of
from pairtune.pair.views import hidden_states

TEXTS = ["the cat sat on the mat", "a dog ran", "we like red and blue", "who is under the table"] * 3


def random_delta(base, planted=None, rank=3, size=0.02):
    """Low-rank changes of every layer that meets the stream; writers also write along a planted direction."""
    generator = torch.Generator().manual_seed(0)
    stream = stream_of(base)
    parts = {}
    for module in {**stream.writers, **stream.readers}:
        if f"{module}.weight" not in base.parameters or module == "lm_head":
            continue
        rows, columns = base.parameters[f"{module}.weight"].shape
        b = size * torch.randn(rows, rank, generator=generator)
        if planted is not None and module in stream.writers:
            b[:, 0] = planted
        disk = base.names.disk(f"{module}.weight")[0]
        parts[disk] = LowRank(torch.randn(rank, columns, generator=generator), b, scale=0.5)
    return Delta(parts, base=base.stored)


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_bert"])
@pytest.mark.parametrize("dense", [False, True])
def test_both_sides_are_the_singular_vectors_of_the_stacked_changes_as_the_stream_sees_them(family, dense, request):
    base = Base.load(request.getfixturevalue(family), device="cpu")
    for name, parameter in base.parameters.items():
        if "norm" in name.lower():
            parameter.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    delta, stream = random_delta(base), stream_of(base)
    given = Delta({name: Dense(delta.difference(name)) for name in delta}, base=base.stored) if dense else delta
    found = identify(given, stream, base, k=3)
    for side, places in (("write", stream.writers), ("read", stream.readers)):
        columns = []
        for disk in delta:
            module = base.names.memory(disk).removesuffix(".weight")
            if module in places:
                place, change = places[module], delta.difference(disk).double()
                g = torch.ones(16, dtype=torch.float64) if place.scale is None else place.scale.double()
                centre = torch.eye(16, dtype=torch.float64) - place.centred / 16
                norm = torch.diag(g) @ centre
                columns.append(norm @ change if side == "write" else (change @ norm).T)
        left, values, _ = torch.linalg.svd(torch.cat(columns, dim=1))
        torch.testing.assert_close(torch.tensor(found[side].values), values[:16].float(), rtol=1e-4, atol=1e-6)
        assert alike(found[side].directions, left[:, :3].float()) > 1 - 1e-5
        assert sum(one.share for one in found[side].layers) == pytest.approx(1.0, rel=1e-5)
        assert found[side].gap == pytest.approx(float(values[2] / values[3]), rel=1e-3)


def test_a_direction_that_every_writer_shares_is_the_one_before_the_gap(tiny_llama):
    base = Base.load(tiny_llama, device="cpu")
    planted = torch.randn(16, generator=torch.Generator().manual_seed(5))
    planted /= planted.norm()
    side = identify(random_delta(base, 0.5 * planted), stream_of(base), base)["write"]
    assert side.k == 1 and side.gap > 2
    assert abs(float(side.directions[:, 0] @ planted)) > 0.99
    assert side.agreement > 0.9 and all(one.cosine > 0.9 for one in side.layers)
    middle = identify(random_delta(base, 0.5 * planted), stream_of(base), base, layers="middle")["write"]
    assert [one.name for one in middle.layers] == ["1", "2"]


def test_without_a_gap_there_is_one_direction(tiny_llama):
    base = Base.load(tiny_llama, device="cpu")
    side = identify(random_delta(base, size=0.2), stream_of(base), base)["read"]
    assert side.k == 1 and side.gap < 1.5


def test_agreement_by_chance_is_what_random_directions_have():
    assert chance(256, 1, 1, draws=400) == pytest.approx((2 / (torch.pi * 256)) ** 0.5, rel=0.15)
    u = torch.eye(8)[:, :2]
    assert alike(u, u @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])) == pytest.approx(1.0)
    assert alike(u, torch.eye(8)[:, 2:4]) == pytest.approx(0.0)


def test_a_change_of_one_direction_is_the_task_and_a_missing_side_is_named():
    simple = SimpleNamespace(energy=[0.93, 0.02])
    with pytest.raises(InputError, match="93% of the energy of what writes"):
        refuse({"write": simple}, ["write"])
    refuse({"write": simple, "read": SimpleNamespace(energy=[0.5])}, ["read"])
    with pytest.raises(InputError, match="no weight that reads the residual stream"):
        refuse({"write": simple}, ["read"])


class Shifted(Installed):
    """A delta that adds one vector behind a block, and does nothing else."""

    def __init__(self, base, block, vector):
        super().__init__(base.model, {"tokens"})
        self.active = True
        base.blocks[block][1].register_forward_hook(lambda _m, _a, out: self.shift(out, vector))

    def shift(self, out, vector):
        if not self.active:
            return out
        return (out[0] + vector, *out[1:]) if isinstance(out, tuple) else out + vector

    def trainable(self):
        return []

    def on(self):
        self.active = True

    def off(self):
        self.active = False


def test_the_direction_that_a_delta_moves_the_stream_along_does_to_the_base_what_the_delta_does(tiny_llama):
    base = Base.load(tiny_llama, device="cpu")
    planted = torch.linalg.qr(torch.randn(16, 2, generator=torch.Generator().manual_seed(5))).Q
    pair = Pair(base, [Layer(Shifted(base, 1, 0.2 * planted[:, 0]), lambda: None)])
    outside = OffTopic(pair, TEXTS)
    found = outside.causal(pair, planted[:, :1])
    assert found.holds and found.cosine > 0.95 and len(found.random) == 16
    assert outside.causal(pair, -planted[:, :1]).cosine == pytest.approx(found.cosine, abs=1e-5)
    moved = outside.displacement(pair, planted)
    torch.testing.assert_close(moved[:2], torch.tensor([[0.0, 0.0], [0.2, 0.0]]).double(), atol=1e-6, rtol=1e-4)
    drift = outside.drift(pair, planted[:, :1])
    assert drift.divergence and drift.divergence > 0 and 0 < drift.along <= drift.moved


def test_what_is_ablated_is_nowhere_behind_a_block(tiny_llama):
    base = Base.load(tiny_llama, device="cpu")
    u = torch.linalg.qr(torch.randn(16, 2, generator=torch.Generator().manual_seed(5))).Q
    pair = Pair(base)
    batch = OffTopic(pair, TEXTS).batches[0]
    with ablated(pair, u):
        inside = hidden_states(pair, batch, [1, 4])
    assert all((h @ u).norm() < 1e-5 * h.norm() for h in inside.values())
    assert (hidden_states(pair, batch, [1])[1] @ u).norm() > 0.1


def test_the_mean_activation_and_massive_channels_are_trivial_directions(tiny_llama):
    base = Base.load(tiny_llama, device="cpu")
    base.parameters["model.embed_tokens.weight"].data[:, 3] = 40.0
    pair = Pair(base)
    outside = OffTopic(pair, TEXTS)
    assert outside.overlap(pair, torch.eye(16)[:, 3:4]).trivial
    quiet = outside.overlap(pair, torch.eye(16)[:, 5:6])
    assert not quiet.trivial and quiet.massive < 0.1
