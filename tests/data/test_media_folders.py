"""Folders of images and sound: classes and splits by names, and what is wrong in them."""

import shutil

import numpy as np
import pytest
from PIL import Image
from tests.data.media_files import COLOURS, image, photos, sounds

from pairtune.data import Task, check
from pairtune.data.media import Media, MediaError
from pairtune.errors import DataError, InputError


def test_a_folder_of_class_folders_by_split(tmp_path):
    task = Task.load(photos(tmp_path, {"train": 4, "val": 2, "test": 3, "ood/odd": 2}))
    assert {name: len(split) for name, split in task.splits.items()} == {
        "train": 12, "validation": 6, "test": 9, "ood/odd": 2,
    }  # fmt: skip
    assert (task.modality, task.text, task.label, task.kind) == ("image", ("image",), "label", "classification")
    assert task.labels == ["blue", "green", "red"]
    assert task.target(task.splits["train"][0]) == 0 and task.target(task.splits["ood/odd"][0]) is None
    assert task.splits["train"].where(0) == str(tmp_path / "train" / "blue" / "0.png")
    assert task.prompt(task.splits["train"][0]).endswith("blue/0.png")
    assert task.splits["test"][0]["image"].decode().size == (18, 18)
    assert "image (guessed)" in task.describe()


def test_class_folders_without_splits_are_split_by_content(tmp_path):
    photos(tmp_path, {"all": 20})
    shutil.copy(tmp_path / "all" / "red" / "0.png", tmp_path / "all" / "red" / "again.png")
    task = Task.load(tmp_path / "all")
    assert [len(task.splits[name]) for name in ("train", "validation", "test")] == [49, 6, 6]
    places = {row["image"].digest: name for name, split in task.splits.items() for row in split}
    assert sum(len(split) for split in task.splits.values()) == len(places) + 1  # the copy lies where its original does
    assert "by the hash of the image" in task.notes[0]


def test_a_folder_of_recordings(tmp_path):
    import soundfile

    task = Task.load(sounds(tmp_path, {"train": 3, "test": 2}, "flac"))
    assert (task.modality, task.text, task.labels) == ("audio", ("audio",), ["high", "low"])
    samples, rate = task.splits["test"][0]["audio"].decode()
    assert rate == 8000 and len(samples) == 2400 and samples.dtype == np.float32
    soundfile.write(tmp_path / "test" / "low" / "none.wav", np.zeros(0, np.float32), 8000)
    empty = Media("audio", tmp_path / "test" / "low" / "none.wav")
    with pytest.raises(MediaError, match="empty"):
        empty.decode()


def test_the_fingerprint_is_of_the_content_not_of_the_names(tmp_path):
    task = Task.load(photos(tmp_path / "a", {"train": 3, "validation": 2}))
    copied = Task.load(shutil.copytree(tmp_path / "a", tmp_path / "b"))
    assert task.fingerprint == copied.fingerprint
    Image.fromarray(image(COLOURS["red"], 999)).save(tmp_path / "b" / "train" / "red" / "0.png")
    assert Task.load(tmp_path / "b").fingerprint != task.fingerprint


def test_copies_across_splits_and_labels_are_found(tmp_path):
    root = photos(tmp_path, {"train": 20, "validation": 30, "test": 30})
    shutil.copy(root / "train" / "red" / "1.png", root / "test" / "red" / "copy.png")
    shutil.copy(root / "train" / "red" / "2.png", root / "train" / "blue" / "wrong.png")
    (root / "test" / "violet").mkdir()
    Image.fromarray(image((200, 0, 200), 5)).save(root / "test" / "violet" / "v.png")
    said = "\n".join(map(str, check(Task.load(root))))
    assert "test: 1 of 92 images is also in train" in said and "copy.png = " in said
    assert "1 image has another label than the same image elsewhere" in said
    assert "error: the label 'violet' is in test but never in train" in said


def test_a_split_read_by_its_metadata_table(tmp_path):
    root = photos(tmp_path, {"train": 4, "test": 2})
    names = sorted(path.relative_to(root / "train") for path in (root / "train").rglob("*.png"))
    lines = ["file_name,label", *(f"{path},{'warm' if path.parts[0] == 'red' else 'cold'}" for path in names)]
    (root / "train" / "metadata.csv").write_text("\n".join(lines))
    task = Task.load({"source": str(root), "splits": {"test": None}})
    assert task.labels == ["cold", "warm"] and task.text == ("file_name",)
    assert task.splits["train"].where(0).endswith(("metadata.csv:2", "metadata.csv:3"))


@pytest.mark.parametrize(
    "harm, says",
    [
        (lambda root: (root / "train" / "red" / "0.png").write_bytes(b""), r"red/0.png: the file is empty"),
        (lambda root: shutil.copy(root / "train" / "red" / "0.png", root / "train"), r"lies in no class's folder"),
        (lambda root: (root / "train" / "red" / "a.wav").write_bytes(b"RIFF"), r"12 images and 1 recordings"),
        (lambda root: [shutil.rmtree(path) for path in root.iterdir()], r"no folder holds images"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, harm, says):
    root = photos(tmp_path, {"train": 4, "test": 2})
    harm(root)
    with pytest.raises((DataError, InputError), match=says):
        Task.load(root)


def test_a_damaged_image_is_named_when_it_is_decoded(tmp_path):
    root = photos(tmp_path, {"train": 2, "test": 2})
    path = root / "train" / "red" / "0.png"
    path.write_bytes(path.read_bytes()[:60])
    row = next(row for row in Task.load(root).splits["train"] if row["image"].source == path)
    with pytest.raises(MediaError, match="not a readable image"):
        row["image"].decode()


def test_images_of_other_kinds_become_eight_bits(tmp_path):
    deep = (np.arange(64, dtype=np.uint16).reshape(8, 8)) * 1040
    Image.fromarray(deep).save(tmp_path / "deep.png")
    found = np.asarray(Media("image", tmp_path / "deep.png").decode())
    assert found.dtype == np.uint8 and np.abs(found - deep / 257).max() <= 0.5
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "clear.png")
    assert Media("image", tmp_path / "clear.png").decode().mode == "RGBA"
    Image.fromarray(image(COLOURS["red"], 1, 8)).convert("P").save(tmp_path / "few.gif")
    assert Media("image", tmp_path / "few.gif").decode().mode == "RGB"


def test_a_photograph_on_its_side_is_turned(tmp_path):
    picture = Image.fromarray(np.zeros((4, 8, 3), np.uint8))
    about = picture.getexif()
    about[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "side.jpg", exif=about)
    assert Media("image", tmp_path / "side.jpg").decode().size == (4, 8)
