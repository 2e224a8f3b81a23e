"""The path's figures against their definitions, the pick on validation alone, and the kept point."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.analysis.pets import ROWS, write_splits

import pairtune
from pairtune.analysis.chosen import keep
from pairtune.analysis.path import along, point
from pairtune.analysis.sweep import ALPHAS, VALIDATION, barrier, best, gain, summed_up, sweep
from pairtune.errors import InputError, MissingView


@pytest.fixture(scope="module")
def swept(pair, task):
    return sweep(pair, task)


def random_items(seed, rows):
    """Values of a classification split: 11 points, so many rows."""
    generator = np.random.default_rng(seed)
    right = (generator.random((11, rows)) < np.linspace(0.3, 0.8, 11)[:, None]).astype(float)
    return {"accuracy": right, "nll": generator.gamma(2.0, 1.0, (11, rows))}


def test_curves_are_those_of_evaluate_at_each_point(swept, pair, task):
    assert set(swept.curves) == {"validation", "test", "ood/new"}
    assert swept.skipped.keys() == {"ood/far"}
    alone = pairtune.evaluate(pair, task, ["test", "ood/new"])
    for split in ("test", "ood/new"):
        assert swept.curves[split].values[0] == pytest.approx(alone.metrics[split]["base"]["accuracy"])
        assert swept.curves[split].values[-1] == pytest.approx(alone.metrics[split]["variant"]["accuracy"])
        assert swept.losses[split].values[-1] == pytest.approx(alone.metrics[split]["variant"]["nll"])
    part = {"test": (task, task.split("test"))}
    middle = along(pair, part, [0.5], lambda alpha: point(pair, alpha))["test"]
    assert swept.losses["test"].values[5] == pytest.approx(middle["nll"].mean(), abs=1e-6)


def test_the_pick_sees_validation_only():
    said = {VALIDATION: random_items(0, 40), "test": random_items(1, 30), "ood/a": random_items(2, 20)}
    one = summed_up(said, "classification")["chosen"].alpha
    said |= {"test": random_items(8, 30), "ood/a": random_items(9, 20)}
    assert summed_up(said, "classification")["chosen"].alpha == one
    said[VALIDATION]["accuracy"][3] = 1.0
    assert summed_up(said, "classification")["chosen"].alpha == ALPHAS[3] != one


def test_of_equal_points_the_one_with_the_lower_loss_is_picked():
    accuracy = np.tile([1.0, 0.0], (3, 1))
    nll = np.array([[3.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    assert best({"accuracy": accuracy, "nll": nll}, "classification") == 1


def test_gain_is_measured_from_the_better_end_and_splits_count_alike():
    few, many = np.zeros((3, 2)), np.zeros((3, 10))
    few[0], few[1], many[1], many[2] = 0.5, 1.0, 0.4, 0.2
    found = gain([few, many], 1, True, ["a", "b"])
    assert found.end == 0
    assert found.mean == pytest.approx((1.0 + 0.4) / 2 - (0.5 + 0.0) / 2)
    assert gain([-few, -many], 1, False, ["a", "b"]).mean == pytest.approx(found.mean)


def test_intervals_of_a_gain_cover_the_truth():
    """90 draws of rows whose true gain is known: the 95 % interval misses it in few."""
    generator, missed = np.random.default_rng(0), 0
    for _ in range(90):
        tables = [np.stack([np.zeros(60), generator.normal(0.3, 1, 60), np.full(60, -1.0)]) for _ in range(2)]
        found = gain(tables, 1, True, ["a", "b"])
        missed += not found.low <= 0.3 <= found.high
    assert 0 < missed <= 12


def test_a_barrier_is_the_height_above_the_chord():
    chord = np.linspace(2.0, 1.0, 11)[:, None]
    assert barrier(np.repeat(chord, 4, 1)).height == pytest.approx(0.0)
    hill = np.repeat(chord, 4, 1)
    hill[7] += [0.5, 0.7, 0.3, 0.5]
    found = barrier(hill)
    assert (found.height, found.alpha) == (pytest.approx(0.5), 0.7)
    assert 0.3 <= found.low <= 0.5 <= found.high <= 0.7
    assert barrier(-np.repeat(np.abs(np.linspace(-1, 1, 11))[:, None], 4, 1) * -1).height == 0.0


def test_two_variants_and_an_encoder_from_its_probe(tiny_bert, folder, task):
    training = {"lr": 0.005, "epochs": 4}
    make = {"base": str(tiny_bert), "data": str(folder), "training": training}
    probe, full = pairtune.tune({**make, "tuner": "head"}), pairtune.tune({**make, "tuner": "full"})
    with pytest.raises(MissingView, match="random head"):
        sweep(full, task)
    found = sweep({"probe": probe, "full": full}, task)
    for end, pair in ((0, probe), (-1, full)):
        alone = pairtune.evaluate(pair, task, ["test"]).metrics["test"]["variant"]
        assert found.curves["test"].values[end] == pytest.approx(alone["accuracy"])
        assert found.losses["test"].values[end] == pytest.approx(alone["nll"], abs=1e-5)
    assert "minus probe" in str(found)


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_numbers_and_several_labels_have_a_path_too(kind, tiny_bert, tmp_path):
    rows = [{"text": text, "label": i / 2 if kind == "regression" else [label]} for i, (text, label) in enumerate(ROWS)]
    write_splits(tmp_path, {**dict.fromkeys(("train", "validation", "test"), rows * 3), "ood/few": rows[:3]})
    task = pairtune.Task.load(tmp_path)
    make = {"base": str(tiny_bert), "data": str(tmp_path), "training": {"lr": 0.005, "epochs": 3}}
    pairs = {name: pairtune.tune({**make, "tuner": name}) for name in ("head", "full")}
    found = sweep(pairs, task)
    assert found.loss == {"regression": "squared_error", "multilabel": "error"}[kind]
    assert found.chosen is not None and found.oracle is not None
    assert set(found.barriers) == {"validation", "test", "ood/few"}


def test_the_kept_point_answers_as_the_point(pair, task, swept, tmp_path):
    variant, checksum = pair.delta, pair.base.checksum()
    place = tmp_path / "kept"
    said = keep(pair, task, replace(swept, chosen=replace(swept.chosen, alpha=0.6)), place, ["here"])
    again = pairtune.Pair.load(place)
    found = pairtune.evaluate(again, task, ["test"]).metrics["test"]["variant"]
    assert found["nll"] == pytest.approx(swept.losses["test"].values[6], abs=1e-5)
    assert abs(found["nll"] - swept.losses["test"].values[-1]) > 1e-3
    assert said["largest_difference"] < 1e-4
    assert again.card.parents == ["here"] and "alpha = 0.6" in again.card.notes[0]
    assert pair.base.checksum() == checksum
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(pair.delta.difference(name), variant.difference(name))
    with pair.off():
        assert pair.model.model.layers[0].mlp.up_proj.weight is pair.base.parameters[name]


def test_nothing_is_kept_where_the_base_is_best(pair, task, swept, tmp_path):
    with pytest.raises(InputError, match="base itself"):
        keep(pair, task, replace(swept, chosen=replace(swept.chosen, alpha=0.0)), tmp_path / "kept")
    with pytest.raises(InputError, match="no alpha"):
        keep(pair, task, replace(swept, chosen=None), tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_the_report_has_its_faces(swept):
    text, page = str(swept), swept.html()
    for words in ("On validation the best point", "gain", "oracle", "Barriers", "ood/far"):
        assert words in text
    assert page.startswith("<!doctype html>") and "Barrier" in page
    assert swept.to_dict()["schema"] == "pairtune.sweep/1"


def test_a_path_has_two_ends(pair, task):
    with pytest.raises(InputError, match="two ends"):
        sweep({"a": pair, "b": pair, "c": pair}, task)
