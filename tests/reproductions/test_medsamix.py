"""What the reproduction of searched merges measures with: Dice, scenes, the pool, and its whole path at a tiny size."""

import json

import numpy as np
import pytest
import torch

from pairtune.merging.engine.by_layer import layer_of
from pairtune.reproductions import medsamix as reproduction
from pairtune.reproductions.frame import execute
from pairtune.reproductions.masks import pool as pool_module
from pairtune.reproductions.masks.arms import Bench, fixed, grids, keep
from pairtune.reproductions.masks.net import new, overlap
from pairtune.reproductions.masks.scenes import TASKS, Scenes, Studio

SETTINGS = {
    "seeds": 1,
    "trials": 8,
    "calibration": 3,
    "test": 4,
    "train": 16,
    "specialist_train": 16,
    "steps": 3,
    "specialist_steps": 2,
}


def test_dice_is_by_image_and_of_two_empty_masks_one():
    found = torch.zeros(4, 2, 2, dtype=torch.bool)
    masks = torch.zeros(4, 2, 2, dtype=torch.bool)
    found[0, 0] = masks[0, :, 0] = True  # two of two pixels each, one in common
    found[1] = True
    masks[2, 0, 0] = True
    assert overlap(found, masks).tolist() == [0.5, 0.0, 0.0, 1.0]


def test_the_segmenter_has_the_parts_of_sam_and_no_running_statistics():
    model = new(0)
    rows = {layer_of(name).row for name in model.state_dict()}
    assert rows == {"encoder", "prompt", "decoder"}
    assert all(tensor.is_floating_point() for tensor in model.state_dict().values())
    assert not list(model.buffers())
    assert model(torch.zeros(2, 1, 32, 32), torch.ones(2, 1, 32, 32)).shape == (2, 32, 32)
    again, other = new(0).state_dict(), new(1).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())
    assert not torch.equal(other["encoder.0.conv.weight"], again["encoder.0.conv.weight"])


def test_shuffled_masks_belong_to_other_images():
    count = 7
    masks = torch.arange(count)[:, None, None].expand(count, 2, 2)
    scenes = Scenes(torch.zeros(count, 1, 2, 2), torch.zeros(count, 1, 2, 2), masks)
    for seed in range(5):
        moved = scenes.shuffled(seed).masks[:, 0, 0]
        assert sorted(moved.tolist()) == list(range(count))
        assert not (moved == torch.arange(count)).any()


def test_every_way_to_choose_has_the_same_number_of_merges():
    assert {name: len(merges) for name, merges in grids(60).items()} == {"tuned task arithmetic": 60, "tuned ties": 60}
    assert set(reproduction.ARMS) >= {*fixed(), *grids(60)}
    assert keep(1).weights == (1.0,)


def test_every_part_compares_arms_that_are_run():
    areas = {reproduction.AREA + arm for arm in (*reproduction.SINGLE, *reproduction.MANY)}
    run = {*reproduction.ARMS, *areas}
    assert {arm for part in reproduction.PARTS for arm in (part.method, part.baseline)} <= run


@pytest.mark.data
def test_parts_share_no_image_and_scenes_are_what_they_say():
    studio = Studio({"data": None})
    for task in TASKS:
        one, same = studio.scenes(task, "test", 3, 0), studio.scenes(task, "test", 3, 0)
        assert torch.equal(one.images, same.images) and torch.equal(one.masks, same.masks)
        assert one.images.shape == one.boxes.shape == (3, 1, 32, 32)
        covered = (one.boxes[:, 0] > 0) & one.masks
        assert torch.equal(covered, one.masks) and one.masks.flatten(1).any(1).all()
    for name in ("fashion_mnist_mini", "mnist_small", "omniglot_small"):
        seen = {part: {studio._item(name, part, at).tobytes() for at in range(300)} for part in ("calibration", "test")}
        assert not seen["calibration"] & seen["test"], name
    tiles = {part: {tile.tobytes() for tile in studio._tiles(part)[0]} for part in ("train", "calibration", "test")}
    assert not tiles["train"] & tiles["test"] and not tiles["calibration"] & tiles["test"]
    assert len(tiles["calibration"]) == 8 and len(tiles["test"]) == 24


@pytest.mark.data
def test_the_whole_path_at_a_tiny_size_and_its_continuation(tmp_path, monkeypatch):
    found = execute(reproduction.REPRODUCTION, tmp_path, SETTINGS)
    assert found["seeds"] == [0]
    assert set(found["numbers"]) >= set(reproduction.ARMS)
    assert all(0 <= found["numbers"]["S"][task]["mean"] <= 1 for task in TASKS)
    assert set(found["choices"]["calibration − test"]) == set(reproduction.ARMS)
    assert len(found["choices"]["the note's rule"]) == 5
    assert np.isfinite([part["difference"] for part in found["parts"]]).all()

    kept = json.loads((tmp_path / "results.json").read_text())
    gone = kept["outcomes"].pop("M, random")
    (tmp_path / "results.json").write_text(json.dumps(kept))
    monkeypatch.setattr(Bench, "from_grid", lambda *_: pytest.fail("an arm that was there is made again"))
    monkeypatch.setattr(pool_module, "train", lambda *_: pytest.fail("the pool was there"))
    again = execute(reproduction.REPRODUCTION, tmp_path, SETTINGS)
    assert json.loads((tmp_path / "results.json").read_text())["outcomes"]["M, random"] == gone
    assert again["numbers"] == found["numbers"]
