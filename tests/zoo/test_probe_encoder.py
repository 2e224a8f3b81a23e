"""The gate of the zoo's bases: what a probe finds, on which items, and which base it lets pass."""

import numpy as np
import pytest

from pairtune.zoo import probe_encoder, probe_sets


def blobs(count, spread, seed):
    generator = np.random.default_rng(seed)
    y = np.arange(count) % 3
    return np.eye(3)[y] * 4 + generator.normal(0, spread, (count, 3)), y


def test_a_probe_finds_what_is_there_and_nothing_more():
    x, y = blobs(90, 0.1, 0)
    assert probe_encoder.probe(x, y) == 1
    assert probe_encoder.probe(x, np.random.default_rng(0).permutation(y)) < 0.6


def test_every_item_of_the_test_part_counts_once():
    x, y = blobs(90, 0.1, 0)
    assert probe_encoder.probe(x, y, (x[:30], (y[:30] + 1) % 3)) == 90 / 120


@pytest.fixture
def data(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for part, count in (("train", 90), ("test", 40)):
            y = np.arange(count) % 2
            x = (np.random.default_rng(count).random((count, 8, 8)) * 90 + 160 * y[:, None, None]).astype(np.uint8)
            np.savez(tmp_path / name / f"{part}.npz", x=x, y=y)
    return tmp_path


def test_sets_are_cut_with_all_classes_alike(data, monkeypatch):
    monkeypatch.setattr(probe_sets, "TRAIN", 30)
    found = probe_sets.read(data / "one")
    assert len(found.x) == 30 and (np.bincount(found.y) == 15).all() and len(found.test_x) == 40
    again = probe_sets.read(data / "one")
    assert all(np.array_equal(a, b) for a, b in zip(found.x, again.x, strict=True))


def test_recordings_are_cut_where_the_table_says_and_brought_to_16_khz(tmp_path):
    import soundfile

    for part in ("train", "test"):
        wave = np.concatenate([np.zeros(800), 0.5 * np.ones(1600)])
        soundfile.write(tmp_path / f"{part}.flac", wave, 8000)
        (tmp_path / f"{part}.csv").write_text("start,length,digit\n0,800,7\n800,1600,3\n")
    found = probe_sets.read(tmp_path)
    assert [len(x) for x in found.x] == [1600, 3200] and found.y.tolist() == [1, 0]
    assert abs(found.x[0]).max() < 1e-3 < 0.4 < np.median(found.x[1])


def test_from_folder_to_verdict(data, tmp_path, tiny_vit, monkeypatch, capsys):
    monkeypatch.setattr(probe_encoder, "GATE", {"vit": ("one",)})
    monkeypatch.setattr(probe_encoder, "LOOKED_AT", {"vit": ("two",)})
    rows = probe_encoder.main([str(tiny_vit), "--data", str(data)])
    assert set(rows) == {"one", "two"} and rows["one"]["input"] == 1
    assert "not fit to be a base: one\n" in capsys.readouterr().out  # nothing is better than all right


def test_a_base_must_beat_both_on_every_set_of_the_gate():
    better, worse = {"encoder": 0.8, "random": 0.6, "input": 0.7}, {"encoder": 0.7, "random": 0.6, "input": 0.7}
    rows = {"mnist_small": better, "fashion_mnist_mini": worse, "cifar10_small": worse}
    assert probe_encoder.unfit(rows) == ["fashion_mnist_mini"]
    assert probe_encoder.unfit({"mnist_small": {"encoder": 0.65, "random": 0.7, "input": 0.6}}) == ["mnist_small"]
