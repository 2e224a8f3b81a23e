"""A delta's file: bit for bit there and back, read when used, and refused by name when anything about it is wrong."""

from __future__ import annotations

import contextlib
import json
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pairtune.errors import DeltaMismatch, FormatError, InputError
from pairtune.pair.delta import Delta
from pairtune.pair.delta_io import load_delta, save_delta
from pairtune.pair.files import open_safetensors, write_safetensors
from pairtune.pair.parts import Dense, LowRank, Module, Rows, Sign, Sparse, Value

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def every_kind(seed: int = 0, dtype: torch.dtype = torch.float32) -> Delta:
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=rng).to(dtype)

    low = LowRank(normal(2, 4), normal(6, 2), 1 / 3)
    index = torch.tensor([0, 5, 23])
    return Delta(
        {
            "layers.10.dense": Dense(normal(6, 4)),
            "layers.9.value": Value(normal(6, 4)),
            "layers.9.counts": Value(torch.arange(3)),
            "a.sparse": Sparse((6, 4), index, normal(3)),
            "a.low": low,
            "a.sign": Sign.of(normal(5, 3)),
            "b.rows": Rows(6, normal(2, 4)),
            "b.rows::value": Rows(6, normal(2, 4), Value(normal(6, 4))),
            "b.rows.sparse": Rows(6, normal(2, 4), Sparse((6, 4), index + 0, normal(3))),
            "b.rows.low": Rows(6, normal(2, 4), LowRank(normal(2, 4), normal(6, 2), -2.5)),
            "classifier.weight": Module(normal(4, 3).T),
            "steering": Module(normal(4), scales=True),
            "scalar": Dense(normal()),
            "nothing": LowRank(normal(0, 4), normal(6, 0)),
        },
        record={"base": "abc", "seed": seed, "nested": {"list": [1, 2.5, None]}},
    )


@given(st.integers(0, 2**32 - 1), st.sampled_from(DTYPES))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_kind_comes_back_bit_for_bit(tmp_path, seed, dtype):
    delta = every_kind(seed, dtype)
    save_delta(delta, tmp_path / "delta.safetensors")
    again = load_delta(tmp_path / "delta.safetensors")
    assert list(again) == list(delta)
    assert again.record == delta.record
    for name, part in delta.items():
        found = again[name]
        assert type(found) is type(part)
        assert found.notes() == part.notes()
        assert found.shape == part.shape
        assert found.tensors().keys() == part.tensors().keys()
        for ending, tensor in part.tensors().items():
            other = found.tensors()[ending]
            assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(other.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_the_same_delta_makes_the_same_bytes(tmp_path):
    save_delta(every_kind(), tmp_path / "one")
    save_delta(load_delta(tmp_path / "one"), tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    save_delta(Delta({}), tmp_path / "empty")
    assert len(load_delta(tmp_path / "empty")) == 0


def test_a_delta_may_be_written_over_the_file_that_it_is_read_from(tmp_path):
    path = tmp_path / "delta.safetensors"
    save_delta(Delta({"w": Dense(torch.ones(4))}), path)
    save_delta(load_delta(path) * 3, path)
    assert load_delta(path)["w"].difference().tolist() == [3.0] * 4


def test_the_base_is_asked_when_it_is_needed(tmp_path):
    save_delta(Delta({"w": Value(torch.full((4,), 3.0))}), tmp_path / "delta")
    asked = []

    def base(name):
        asked.append(name)
        return torch.ones(4)

    delta = load_delta(tmp_path / "delta", base)
    assert asked == []
    assert delta.difference("w").tolist() == [2.0] * 4
    assert asked == ["w"]


def test_tensors_are_mapped_and_a_change_in_memory_does_not_reach_the_file(tmp_path):
    path = tmp_path / "delta"
    save_delta(Delta({"w": Dense(torch.zeros(4))}), path)
    before = path.read_bytes()
    load_delta(path)["w"].diff.add_(1)  # type: ignore[attr-defined]
    assert path.read_bytes() == before


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_non_finite_numbers_are_refused_by_name(tmp_path, bad):
    fine = {"a": Dense(torch.ones(2)), "z": LowRank(torch.ones(1, 2), torch.ones(2, 1))}
    broken = Delta(
        fine | {"b": Rows(1, torch.ones(1, 2), Value(torch.tensor([[1.0, bad]]))), "c": Module(torch.tensor(bad))}
    )
    save_delta(Delta(fine), tmp_path / "old")
    with pytest.raises(DeltaMismatch, match=r"not written: 2 tensors.*: b, c$"):
        save_delta(broken, tmp_path / "old")
    assert list(load_delta(tmp_path / "old")) == ["a", "z"]
    tensors = {f"{name}::{ending}": t for name, part in broken.items() for ending, t in part.tensors().items()}
    notes = json.dumps({name: part.notes() for name, part in broken.items()})
    write_safetensors(tmp_path / "bad", tensors, {"format": "pairtune-delta", "version": "1", "parts": notes})
    with pytest.raises(DeltaMismatch, match=r"bad: 2 tensors.*: b, c$"):
        load_delta(tmp_path / "bad")
    assert load_delta(tmp_path / "bad", check=False).non_finite_names() == ["b", "c"]


def test_a_record_that_is_not_json_is_refused(tmp_path):
    for record in ({"x": torch.ones(1)}, {"x": float("nan")}):
        with pytest.raises(FormatError, match="record"):
            save_delta(Delta({}, record=record), tmp_path / "delta")


def written(path, change_tensors=None, change_notes=None, **metadata):
    """A file of three parts with something about it changed."""
    parts = {
        "d": Dense(torch.ones(2, 3)),
        "s": Sparse((2, 3), torch.tensor([1, 4]), torch.ones(2)),
        "l": LowRank(torch.ones(1, 3), torch.ones(2, 1), 0.5),
        "r": Rows(2, torch.ones(1, 3), Dense(torch.ones(2, 3))),
        "m": Module(torch.ones(2)),
    }
    tensors = {f"{name}::{ending}": t for name, part in parts.items() for ending, t in part.tensors().items()}
    notes = {name: part.notes() for name, part in parts.items()}
    if change_tensors:
        change_tensors(tensors)
    if change_notes:
        change_notes(notes)
    known = {"format": "pairtune-delta", "version": "1", "parts": json.dumps(notes), "record": "{}"}
    write_safetensors(path, tensors, {key: value for key, value in (known | metadata).items() if value is not None})
    return path


def test_the_unchanged_file_is_fine(tmp_path):
    assert list(load_delta(written(tmp_path / "x"))) == ["d", "l", "m", "r", "s"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("l::B"), r"'l'.*'l::B' is missing"),
        (lambda t: t.pop("r::diff"), r"'r'.*'r::diff' is missing"),
        (lambda t: t.update({"d::extra": torch.ones(1)}), r"1 tensors that none of its parts has: d::extra"),
        (lambda t: t.update({"plain.weight": torch.ones(1)}), r"none of its parts has: plain\.weight"),
        (lambda t: t.update({"d::diff": torch.ones(2, 3).int()}), r"'d': diff holds torch\.int32"),
        (lambda t: t.update({"s::index": torch.tensor([1, 4]).int()}), r"'s'.*int64"),
        (lambda t: t.update({"s::index": torch.tensor([1])}), r"'s'.*one length"),
        (lambda t: t.update({"s::index": torch.tensor([4, 1])}), r"'s'.*not ascending within \[2, 3\]"),
        (lambda t: t.update({"s::index": torch.tensor([1, 6])}), r"'s'.*not ascending within \[2, 3\]"),
        (lambda t: t.update({"s::index": torch.tensor([-1, 1])}), r"'s'.*not ascending within \[2, 3\]"),
        (lambda t: t.update({"l::A": torch.ones(2, 3)}), r"'l': a low-rank change has A \[r, d_in\]"),
        (lambda t: t.update({"r::rows": torch.ones(1, 4)}), r"'r': rows are added to a change of the shape \[2, 4\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, change, message):
    with pytest.raises(FormatError, match=message):
        load_delta(written(tmp_path / "x", change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n.pop("d"), r"none of its parts has: d::diff"),
        (lambda n: n.update(extra={"kind": "dense"}), r"'extra'.*'extra::diff' is missing"),
        (lambda n: n["d"].update(kind="wavelet"), r"'d': expected a kind of change.*found 'wavelet'"),
        (lambda n: n.update(d=[]), r"'d': expected a kind"),
        (lambda n: n["d"].update(kind=["dense"]), r"'d': expected a kind"),
        (lambda n: n["d"].update(more=1), r"'d': its notes do not fit a dense change: more"),
        (lambda n: n["l"].pop("scale"), r"'l': its notes do not fit a low-rank change: scale"),
        (lambda n: n["l"].update(scale="1"), r"'l': its notes"),
        (lambda n: n["l"].update(scale=True), r"'l': its notes"),
        (lambda n: n["s"].update(shape=[2, -3]), r"'s': its notes"),
        (lambda n: n["s"].update(shape=[2, 3.0]), r"'s': its notes"),
        (lambda n: n["r"].update(first_row=True), r"'r': its notes"),
        (lambda n: n["r"].update(first_row=1 << 70), r"'r': its notes"),
        (lambda n: n["r"].update(old={}), r"'r': expected a kind"),
        (lambda n: n["r"].update(old={"kind": "rows"}), r"'r': its notes"),
        (lambda n: n["m"].update(scales=1), r"'m': its notes"),
    ],
)
def test_notes_that_do_not_fit_are_refused(tmp_path, change, message):
    with pytest.raises(FormatError, match=message):
        load_delta(written(tmp_path / "x", None, change))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": None}, "not a pairtune-delta file"),
        ({"format": "pt"}, "'pt'"),
        ({"version": "2"}, "version '2'.*reads version '1'"),
        ({"version": None}, "version None"),
        ({"parts": None}, "list of parts: not valid JSON"),
        ({"parts": "[]"}, "expected a JSON object"),
        ({"parts": '{"d": {"kind": "dense"}, "d": {"kind": "value"}}'}, "occurs twice"),
        ({"record": "[1]"}, "record: expected a JSON object"),
        ({"record": '{"x": NaN}'}, "record"),
    ],
)
def test_another_format_is_refused(tmp_path, metadata, message):
    with pytest.raises(FormatError, match=message):
        load_delta(written(tmp_path / "x", **metadata))


def test_mutated_files_load_whole_or_are_refused(tmp_path):
    path = written(tmp_path / "x")
    whole, length = path.read_bytes(), len(open_safetensors(path).header())
    rng = random.Random(0)
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        at = rng.randrange(length if rng.random() < 0.7 else len(data))
        match rng.randrange(4):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + 1] = rng.choice([b"0", b'"', b"}", b"9", b"a", b"null"])
            case 2:
                del data[at : at + rng.randint(1, 9)]
            case 3:
                del data[at:]
        path.write_bytes(bytes(data))
        try:
            delta = load_delta(path)
        except InputError:
            refused += 1
            continue
        for part in delta.values():  # what loads can be used
            assert part.is_finite()
            with contextlib.suppress(InputError):
                part.difference()
    assert 200 < refused < 400
