"""Detectors on images and sound: folders, lists and splits; what says nothing there."""

import json

import numpy as np
import pytest
from tests.data.media_files import photos, sounds

from pairtune.data import Task
from pairtune.errors import DataError, InputError, MissingView
from pairtune.ood.media import inputs_in
from pairtune.ood.scoring import Scorer, score, separate
from pairtune.training.run import tune

QUICK = {"epochs": 4, "batch_size": 16, "lr": 3e-3, "log_every": 50}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("p"), {"train": 12, "validation": 6, "test": 8, "ood/odd": 8})


@pytest.fixture(scope="module")
def pair(root, tiny_vit):
    return tune({"base": str(tiny_vit), "data": str(root), "tuner": "full", "training": QUICK})


def test_scores_are_the_heads_and_do_not_depend_on_the_batch(pair, root):
    files = [str(path) for path in sorted((root / "test").rglob("*.png"))]
    together = score(pair, files, "msp")
    assert np.allclose(together, [score(pair, [one], "msp")[0] for one in files], atol=1e-5)
    task = Task.load(str(root))
    logits = [Scorer(pair, ["max-logit"]).table([row["image"]])["max-logit"][0] for row in list(task.split("test"))[:2]]
    assert np.isfinite(logits).all()


def test_every_detector_that_a_labels_pair_has_works(pair, root):
    task = Task.load(str(root))
    names = ["msp", "energy", "max-logit", "mahalanobis", "knn", "vim", "label-ratio:own", "label-ratio:distribution"]
    found = separate(pair, task, names, resamples=20)["ood/odd"]
    assert set(found) == set(names) and all(0 <= one.auroc[0] <= 1 for one in found.values())


def test_length_says_nothing_of_images(pair):
    with pytest.raises(MissingView, match="all images are of one length to the base"):
        Scorer(pair, ["length"])
    assert "length" not in Scorer(pair).detectors


def test_inputs_from_a_folder_a_list_and_a_table(root, tmp_path):
    assert len(list(inputs_in(root / "ood" / "odd", "image", None))) == 8
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in sorted(root.rglob("*.png"))[:5]))
    assert [line for line, _ in inputs_in(tmp_path / "list.txt", "image", None)] == [1, 2, 3, 4, 5]
    (tmp_path / "t.jsonl").write_text(json.dumps({"a": 1, "picture": "gone.png"}))
    with pytest.raises(DataError, match=r"t.jsonl, line 1: gone.png: there is no such file"):
        list(inputs_in(tmp_path / "t.jsonl", "image", None))
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    with pytest.raises(InputError, match="no column names image files .columns: text."):
        list(inputs_in(tmp_path / "words.txt", "image", None))
    with pytest.raises(InputError, match="there is no audio file in it"):
        list(inputs_in(root, "audio", None))


def test_a_damaged_file_is_named(pair, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(DataError, match=r"bad.png: not a readable image"):
        score(pair, [str(tmp_path / "bad.png")], "msp")


def test_sound_is_scored(tiny_ast, tmp_path):
    root = sounds(tmp_path, {"train": 12, "validation": 6, "test": 6})
    pair = tune({"base": str(tiny_ast), "data": str(root), "tuner": "lora", "training": QUICK})
    found = score(pair, [str(path) for path in sorted((root / "test").rglob("*.wav"))], "energy")
    assert len(found) == 12 and np.isfinite(found).all()
