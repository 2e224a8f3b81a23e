"""The reproduction of Compacter: its arms on a tiny encoder, its counts, and that it goes on where it stopped."""

import gzip
import json

import pytest

from pairtune.reproductions import compacter as reproduction
from pairtune.reproductions.frame import Results, execute


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data" / "movie_sentiment"
    folder.mkdir(parents=True)
    for split, count in (("train", 320), ("dev", 8), ("test", 10)):
        rows = [{"text": f"the {'good' if i % 2 else 'bad'} cat {i}", "label": "pn"[i % 2]} for i in range(count)]
        with gzip.open(folder / f"sst2_{split}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder.parent


def test_every_arm_runs_and_is_counted(tiny_bert, data, tmp_path, monkeypatch):
    shape = {"name": "compacter", "reduction": 2}
    small = {
        reproduction.COMPACTER: shape,
        reproduction.PLUS: shape | {"where": "ffn"},
        reproduction.LOW_RANK: shape | {"n": 1},
        reproduction.FULL_FACTORS: shape | {"rank": 2},
        reproduction.HOULSBY: {"name": "adapter", "reduction": 2, "where": "both"},
    }
    monkeypatch.setattr(reproduction, "ARMS", reproduction.ARMS | small)
    settings = {
        "base": str(tiny_bert), "data": str(data), "seeds": 1, "steps": {"300": 3, "100": 3}, "rates": [1e-3],
        "full rates": [1e-4], "validation": 8, "test": 10, "precision": "float32",
    }  # fmt: skip
    found = execute(reproduction.REPRODUCTION, tmp_path / "work", settings)
    assert {part["name"] for part in found["parts"]} == {part.name for part in reproduction.REPRODUCTION.parts}
    counts = found["choices"]["trainable numbers"]
    assert counts[reproduction.NORMS]["adapters"] == counts[reproduction.FULL]["adapters"] == 0
    low, products = counts[reproduction.LOW_RANK], counts[reproduction.COMPACTER]
    assert products["adapters"] - 4**3 == low["adapters"] - 1  # the shared factors are all that differs
    assert counts[reproduction.FULL_FACTORS]["adapters"] > products["adapters"] > counts[reproduction.PLUS]["adapters"]
    assert counts[reproduction.NORMS]["all"] < products["all"]

    stored = Results.open(tmp_path / "work", reproduction.REPRODUCTION.settings | settings)
    monkeypatch.setattr(reproduction, "tune", None)
    assert execute(reproduction.REPRODUCTION, tmp_path / "work", settings)["numbers"] == found["numbers"]
    assert not stored.missing(reproduction.arm_of(reproduction.FULL, 100), 0)
