"""What is said of a move: barriers along lines between bases and fine-tunes, the delta on the new base, recovery."""

import json

import numpy as np
import pytest
import torch
from tests.cli.typed import call
from tests.merging.bases import nudged, stored, tuned
from tests.merging.bases import task as write

from pairtune import Task
from pairtune.analysis.connectivity import (
    BASES,
    FINE_TUNES,
    MOVED,
    NEW,
    OLD,
    ON_NEW,
    TUNED,
    connectivity,
    line_across,
    recovery,
)  # fmt: skip
from pairtune.analysis.predict import Reader, label_log_probs
from pairtune.errors import MissingView
from pairtune.merging.rebase.pair import rebase
from pairtune.pair.base import Base
from pairtune.pair.line import weights_of
from pairtune.pair.pair import Pair


@pytest.fixture(scope="module")
def ground(tiny_llama, tmp_path_factory):
    """(task, old pair, moved pair, pair tuned on the new base)"""
    place = tmp_path_factory.mktemp("ground")
    data, new = write(place / "task"), nudged(tiny_llama, place / "new", size=0.003)
    steps = {"lr": 0.01, "max_steps": 15, "eval_every": 15}
    source = tuned(tiny_llama, data, place / "source", training=steps)
    other = tuned(new, data, place / "other", training=steps)
    return Task.load(data), Pair.load(source), rebase(source, new), Pair.load(other)


@pytest.fixture(scope="module")
def found(ground):
    """What is found of the move, and the new base's model as it was before."""
    task, source, moved, other = ground
    before = {name: p.detach().clone() for name, p in moved.base.model.named_parameters()}
    return connectivity(moved, task, source=source, tuned=other), before


def test_lines_between_bases_go_through_every_tensor(ground):
    _, source, moved, other = ground
    line = line_across(Pair(source.base), Pair(moved.base))
    assert set(line.start) == set(moved.base.parameters)
    with moved.off(), line.at(0.5):
        for name, value in moved.base.model.named_parameters():
            ends = [pair.base.parameters[name].detach() for pair in (source, moved)]
            assert torch.allclose(value, (ends[0] + ends[1]) / 2, atol=1e-7), name
    ends = weights_of(source), weights_of(other)
    line = line_across(source, other)
    assert all(
        torch.equal(line.start[name], ends[0][name]) and torch.equal(line.end[name], ends[1][name]) for name in ends[0]
    )
    values = {name: value.detach().clone() for name, value in moved.base.parameters.items()}
    assert all(torch.equal(value, moved.base.parameters[name]) for name, value in values.items())


def test_every_line_is_measured_as_the_definition_says(ground, found):
    task, source, moved, other = ground
    found, _ = found
    assert set(found.lines) == {BASES, FINE_TUNES, ON_NEW}
    rows = task.split("validation")
    truth = [task.target(row) for row in rows]

    def loss(pair):
        return -float(label_log_probs(Reader(pair, task), rows)[np.arange(len(truth)), truth].mean())

    with source.off():
        old = loss(source)
    with moved.off():
        new = loss(moved)
    ends = {BASES: (old, new), FINE_TUNES: (loss(source), loss(other)), ON_NEW: (loss(moved), loss(other))}
    for name, (first, last) in ends.items():
        values = found.lines[name].losses.values
        assert values[0] == pytest.approx(first, abs=1e-5) and values[-1] == pytest.approx(last, abs=1e-5), name
        chord = [first + a * (last - first) for a in found.alphas]
        assert found.lines[name].barrier.height == pytest.approx(
            max(v - c for v, c in zip(values, chord, strict=True)), abs=1e-5
        )
    line = line_across(source, other)
    with other.off(), line.at(0.3):
        assert found.lines[FINE_TUNES].losses.values[3] == pytest.approx(loss(other), abs=1e-5)
    assert found.delta.losses.values[0] == pytest.approx(new, abs=1e-5)
    assert found.delta.change.mean == pytest.approx(loss(moved) - new, abs=1e-5)
    assert found.recovery == pytest.approx(recovery(found.metrics))
    for part in ("recovers", "old base to new base"):
        assert part in str(found)


def test_the_moved_pair_is_as_it_was_afterwards(ground, found):
    before = found[1]
    assert all(torch.equal(p, before[name]) for name, p in ground[2].base.model.named_parameters())


def test_recovery_is_a_share_of_the_gain_by_tuning():
    assert recovery({NEW: 0.2, MOVED: 0.5, TUNED: 0.8}) == pytest.approx(0.5)
    assert recovery({NEW: 2.0, MOVED: 1.0, TUNED: 0.5}) == pytest.approx(2 / 3)  # a loss: less is better
    assert recovery({NEW: 0.2, MOVED: 0.5, TUNED: 0.2}) is None
    assert recovery({MOVED: 0.5, TUNED: 0.2}) is None


def test_an_encoder_with_a_new_head_is_compared_where_it_can_be(tiny_bert, ground, tmp_path):
    task = ground[0]
    new = nudged(tiny_bert, tmp_path / "new")
    data = write(tmp_path / "data")
    source, other = (tuned(base, data, tmp_path / f"of-{base.name}") for base in (tiny_bert, new))
    found = connectivity(rebase(source, new), task, source=Pair.load(source), tuned=Pair.load(other))
    assert ON_NEW in found.lines and BASES in found.missing
    assert found.delta is None and found.recovery is None and OLD not in found.metrics
    assert str(found)
    bare = Pair(Base.load(new, task="classification", labels=["cat", "dog"]))
    with pytest.raises(MissingView, match="is new"):
        line_across(bare, bare)


def test_the_verb_prints_what_it_found_and_keeps_the_pair(ground, tmp_path, capsys):
    source, new, data = (tmp_path / name for name in ("source", "new", "data"))
    moved = ground[2]
    write(data), ground[1].save(source), nudged(moved.base.folder, new, size=0.0)
    assert stored(new).keys()
    code, out, err = call(capsys, "rebase", source, "--onto", new, "--out", tmp_path / "out", "--data", data, "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["connectivity"]["lines"][BASES]["barrier"]["height"] >= 0 and "moved from" in said["notes"][0]
    assert Pair.load(tmp_path / "out").delta
    code, out, err = call(capsys, "rebase", source, "--onto", new, "--out", tmp_path / "whole", "--to", "merged")
    assert code == 0 and "checkpoint" in out, err
    for words, part in (
        (("--out", tmp_path / "out"), "not an empty folder"),
        ((), "nothing to do"),
        (("--out", tmp_path / "x", "--tuned", source), "--tuned needs a task"),
        (("--out", tmp_path / "x", "--base", new / "no"), "no such folder"),
    ):
        code, _, err = call(capsys, "rebase", source, "--onto", new, *words)
        assert code == 2 and part in err and "Traceback" not in err, err
