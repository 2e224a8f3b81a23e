"""Tuning and evaluating on images and sound, from a folder to a pair and back."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.media_files import photos, sounds

from pairtune.analysis.evaluate import evaluate
from pairtune.data import Task
from pairtune.errors import ConfigError, DataError, InputError
from pairtune.pair.pair import Pair
from pairtune.training.run import tune

FAST = {"epochs": 6, "batch_size": 8, "lr": 3e-3, "log_every": 50}
HEAD = {**FAST, "lr": 3e-2}  # random features: a head alone needs larger steps


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pictures"), {"train": 16, "validation": 6, "test": 8})


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return sounds(tmp_path_factory.mktemp("tones"), {"train": 16, "validation": 6, "test": 8})


@pytest.mark.parametrize("tuner", ["head", "full", "lora", "adaptformer"])
def test_images_from_folder_to_pair(tmp_path, tiny_vit, pictures, tuner):
    pair = tune(
        {
            "base": str(tiny_vit),
            "data": str(pictures),
            "tuner": tuner,
            "out": str(tmp_path / "p"),
            "training": HEAD if tuner == "head" else FAST,
        }
    )
    task = Task.load(str(pictures))
    found = evaluate(pair, task).metrics["test"]
    assert found["variant"]["accuracy"] > 0.9 and "base + linear probe" in found
    again = evaluate(Pair.load(tmp_path / "p"), task).metrics["test"]
    assert again == found


@pytest.mark.parametrize("tuner", ["head", "full", "lora", "conformer-adapter"])
def test_sound_from_folder_to_pair(tmp_path, tiny_ast, tones, tuner):
    pair = tune(
        {
            "base": str(tiny_ast),
            "data": str(tones),
            "tuner": tuner,
            "out": str(tmp_path / "p"),
            "training": HEAD if tuner == "head" else FAST,
        }
    )
    found = evaluate(pair, Task.load(str(tones))).metrics["test"]
    assert found["variant"]["accuracy"] > 0.9
    assert evaluate(Pair.load(tmp_path / "p"), Task.load(str(tones))).metrics["test"] == found


def test_augmented_runs_repeat_and_differ_from_plain_ones(tiny_vit, pictures):
    def run(ways):
        settings = {**FAST, "epochs": 2, "augment": ",".join(ways) if ways else []}
        pair = tune({"base": str(tiny_vit), "data": str(pictures), "tuner": "head", "training": settings})
        return pair.top.installed.state()["classifier.weight"]

    plain, moved, again = run([]), run(["flip", "crop"]), run(["flip", "crop"])
    assert torch.equal(moved, again) and not torch.equal(moved, plain)


def test_what_is_read_must_fit(tmp_path, tiny_vit, tiny_ast, tiny_bert, pictures, tones):
    with pytest.raises(InputError, match="reads images, .* holds recordings"):
        tune({"base": str(tiny_vit), "data": str(tones)})
    with pytest.raises(InputError, match="reads texts, .* holds images"):
        tune({"base": str(tiny_bert), "data": str(pictures)})
    with pytest.raises(InputError, match="training.augment: flip is not for recordings .there are masks."):
        tune({"base": str(tiny_ast), "data": str(tones), "training": {"augment": ["flip"]}})
    with pytest.raises(InputError, match="training.max_length: every one of .* images has 17 positions"):
        tune({"base": str(tiny_vit), "data": str(pictures), "training": {"max_length": 9}})
    with pytest.raises(ConfigError, match="tuner: levi tunes on texts, .* reads images"):
        tune({"base": str(tiny_vit), "data": str(pictures), "tuner": "levi"})
    with pytest.raises(ConfigError, match="augment"):
        tune({"base": str(tiny_vit), "data": str(pictures), "training": {"augment": ["blur"]}})


def test_a_damaged_image_stops_the_run_by_its_name(tmp_path, tiny_vit):
    root = photos(tmp_path, {"train": 4, "validation": 2, "test": 2})
    bad = root / "train" / "red" / "2.png"
    bad.write_bytes(bad.read_bytes()[:50])
    with pytest.raises(DataError, match=r"red/2.png: not a readable image"):
        tune({"base": str(tiny_vit), "data": str(root), "tuner": "head", "training": FAST})


def test_a_damaged_recording_in_a_manifest_is_named_with_its_line(tmp_path, tiny_ast):
    root = sounds(tmp_path, {"all": 8})
    paths = sorted(path.relative_to(root) for path in root.rglob("*.wav"))
    (root / "list.csv").write_text("\n".join(["path,label", *(f"{path},{path.parts[1]}" for path in paths)]))
    (root / paths[3]).write_bytes(b"RIFF0000WAVEnothing of use")
    with pytest.raises(DataError, match=rf"list.csv, line 5: {paths[3]}: not a readable recording"):
        tune({"base": str(tiny_ast), "data": str(root / "list.csv"), "tuner": "head", "training": FAST})


def test_pixels_are_read_once_and_kept(tiny_vit, pictures, monkeypatch):
    opened = []
    plain = Image.open
    monkeypatch.setattr(Image, "open", lambda place, *a, **k: opened.append(str(place)) or plain(place, *a, **k))
    tune({"base": str(tiny_vit), "data": str(pictures), "tuner": "full", "training": {**FAST, "epochs": 3}})
    names, counts = np.unique([name for name in opened if "/train/" in name], return_counts=True)
    assert len(names) == 48 and set(counts) == {1}
