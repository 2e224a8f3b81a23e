"""Tables of images and sound: arrays, manifests, bytes in Parquet, parts of one recording."""

import io

import numpy as np
import pytest
from tests.data.media_files import COLOURS, image, photos, wave

from pairtune.data import Task
from pairtune.errors import DataError, InputError


def arrays(count: int) -> dict[str, np.ndarray]:
    pictures = [image(list(COLOURS.values())[i % 3], i, 8) for i in range(count)]
    return {"x": np.stack(pictures), "y": np.arange(count) % 3}


@pytest.mark.parametrize("layout", ["hwc", "chw", "grey", "grey1", "unit", "bool"])
def test_arrays_of_every_layout(tmp_path, layout):
    made = arrays(30)
    pixels = {
        "hwc": made["x"],
        "chw": np.moveaxis(made["x"], 3, 1),
        "grey": made["x"][..., 0],
        "grey1": made["x"][..., :1],
        "unit": made["x"].astype(np.float32) / 255,
        "bool": made["x"][..., 0] > 40,
    }[layout]
    np.savez(tmp_path / "all.npz", images=pixels, labels=made["y"])
    task = Task.load(tmp_path / "all.npz")
    assert (task.modality, task.text, task.label, task.labels) == ("image", ("images",), "labels", ["0", "1", "2"])
    rows = {row["images"].name: row["images"] for split in task.splits.values() for row in split}
    wanted = {"bool": (made["x"][..., 0] > 40) * 255, "grey": made["x"][..., 0], "grey1": made["x"][..., 0]}
    for i in range(30):
        found = np.asarray(rows[f"all.npz, row {i + 1}"].decode())
        assert np.array_equal(found, wanted.get(layout, made["x"])[i])


def test_one_archive_with_several_splits(tmp_path):
    made = arrays(30)
    np.savez(tmp_path / "set.npz", x_train=made["x"], y_train=made["y"], x_test=made["x"][:9], y_test=made["y"][:9])
    task = Task.load(tmp_path / "set.npz")
    assert {name: len(split) for name, split in task.splits.items()} == {"train": 27, "validation": 3, "test": 9}
    assert task.text == ("x",) and task.splits["test"].where(0).endswith("set.npz:1")


def test_archives_as_splits_with_a_further_column(tmp_path):
    made = arrays(30)
    np.savez(tmp_path / "train.npz", **made, alphabet=np.zeros(30, np.uint8))
    np.savez_compressed(tmp_path / "test.npz", **made)
    (tmp_path / "ood").mkdir()
    np.savez(tmp_path / "ood" / "far.npz", x=made["x"])
    task = Task.load(tmp_path)
    assert list(task.splits) == ["train", "validation", "test", "ood/far"]
    assert (task.text, task.label) == (("x",), "y")


@pytest.mark.parametrize(
    "content, says",
    [
        ({"x": np.zeros((4, 8, 8, 2)), "y": np.zeros(4)}, r"x has the shape \[4, 8, 8, 2\]; images are"),
        ({"x": np.zeros((4, 21, 2), np.float32), "y": np.zeros(4)}, r"shape \[4, 21, 2\]"),
        ({"x": np.full((4, 8, 8), np.nan), "y": np.zeros(4)}, r"row 1 holds NaN"),
        ({"x": np.full((4, 8, 8), -1.0), "y": np.zeros(4)}, r"values from -1 to -1; pixels go from 0 to 255"),
        ({"x": np.zeros((4, 8, 8)), "y": np.zeros(3)}, r"different numbers of rows: x \[4, 8, 8\], y \[3\]"),
        ({"x": np.zeros((0, 8, 8)), "y": np.zeros(0)}, r"no rows"),
        ({"x": np.array([{"a": 1}], object)}, r"Python objects, which are pickles"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, content, says):
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(DataError, match=says):
        Task.load(tmp_path / "bad.npz")


def test_an_archive_that_is_none_or_is_cut_off(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"text")
    with pytest.raises(DataError, match="not a NumPy archive"):
        Task.load(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **arrays(30))
    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:400])
    with pytest.raises(DataError, match="not a readable NumPy archive"):
        Task.load(tmp_path / "b.npz")


def test_a_manifest_with_paths_beside_it(tmp_path):
    root = photos(tmp_path, {"pictures": 6})
    lines = [f'{{"file": "{p.relative_to(root)}", "kind": "{p.parent.name}"}}' for p in sorted(root.rglob("*.png"))]
    (root / "list.jsonl").write_text("\n".join(lines))
    task = Task.load(root / "list.jsonl", label="kind")
    assert task.modality == "image" and task.labels == ["blue", "green", "red"]
    (root / "list.jsonl").write_text("\n".join([*lines, '{"file": "gone.png", "kind": "red"}']))
    with pytest.raises(DataError, match=r"list.jsonl, line 19: gone.png: there is no such file"):
        Task.load(root / "list.jsonl", label="kind")
    with pytest.raises(InputError, match="holds image files, which are learnt by labels"):
        Task.load(root / "list.jsonl", text="file", kind="lm")


def test_texts_that_name_files_stay_texts(tmp_path):
    lines = [f'{{"text": "say no {i}", "picture": "{i}.png", "label": "{i % 2}"}}' for i in range(40)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    task = Task.load(tmp_path / "t.jsonl")
    assert task.modality == "text" and task.text == ("text",) and task.fingerprint


def test_bytes_in_parquet_as_datasets_writes_them(tmp_path):
    import pyarrow
    from PIL import Image
    from pyarrow import parquet

    rows = []
    for i in range(30):
        place = io.BytesIO()
        Image.fromarray(image(list(COLOURS.values())[i % 3], i)).save(place, "png")
        rows.append({"image": {"bytes": place.getvalue(), "path": f"{i}.png"}, "label": i % 3})
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    task = Task.load(tmp_path)
    assert (task.modality, task.text) == ("image", ("image",))
    assert task.splits["train"][0]["image"].decode().size == (18, 18)
    rows[7]["image"] = {"bytes": b"", "path": None}
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet, line 8: column 'image': expected the path"):
        Task.load(tmp_path)


def test_a_table_of_parts_of_one_recording(tmp_path):
    import soundfile

    parts = [wave(200 + 20 * i, i, seconds=0.1) for i in range(40)]
    soundfile.write(tmp_path / "train.flac", np.concatenate(parts), 8000, subtype="PCM_16")
    lines = ["start,length,label", *(f"{800 * i},800,{i % 2}" for i in range(40))]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    task = Task.load(tmp_path)
    assert (task.modality, task.text) == ("audio", ("audio",))
    samples, rate = task.splits["train"][3]["audio"].decode()
    start = task.splits["train"][3]["start"]
    assert rate == 8000 and np.abs(samples - parts[int(start) // 800]).max() < 1e-3
    assert len({row["audio"].digest for row in task.splits["train"]}) == len(task.splits["train"])
    (tmp_path / "train.csv").write_text("\n".join([*lines, "31990,800,0"]))
    with pytest.raises(DataError, match="train.csv, line 42: .*samples 31990 to 32790 are asked for, it has 32000"):
        Task.load(tmp_path)


@pytest.mark.parametrize("values, says", [("-1,5", "start is 0 or more"), ("a,5", "whole numbers of samples")])
def test_parts_that_make_no_sense(tmp_path, values, says):
    import soundfile

    soundfile.write(tmp_path / "train.wav", wave(200, 0), 8000)
    (tmp_path / "train.csv").write_text(f"start,length,label\n{values},a\n0,100,b\n")
    with pytest.raises(DataError, match=rf"train.csv, line 2: .*{says}"):
        Task.load(tmp_path)
