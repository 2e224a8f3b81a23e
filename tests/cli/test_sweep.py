"""`pairtune sweep` as people type it: one pair, two pairs, a kept point, a page, and wrong inputs."""

import json

import pytest
from tests.cli.typed import ROWS, call

import pairtune


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("task")
    (place / "ood").mkdir()
    for name, times in (("train", 3), ("validation", 1), ("test", 2), ("ood/far", 1)):
        lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS * times]
        (place / f"{name}.jsonl").write_text("\n".join(lines))
    return place


@pytest.fixture(scope="module")
def pairs(tiny_llama, folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("pairs")
    for seed, name in enumerate(("one", "two")):
        training = {"lr": 0.01, "epochs": 10}
        config = {"base": str(tiny_llama), "data": str(folder), "tuner": "lora", "training": training, "seed": seed}
        pairtune.tune({**config, "out": str(place / name)})
    return place / "one", place / "two"


def test_one_pair_with_a_kept_point_and_a_page(pairs, folder, tmp_path, capsys):
    page, kept = tmp_path / "out.html", tmp_path / "kept"
    code, out, err = call(capsys, "sweep", pairs[0], "--data", folder, "--html", page, "--save", kept, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["schema"] == "pairtune.sweep/1" and (found["start"], found["end"]) == ("base", "one")
    assert len(found["curves"]["validation"]["values"]) == 11
    assert found["saved"]["alpha"] == found["chosen"]["alpha"]
    assert page.read_text().startswith("<!doctype html>")
    assert pairtune.Pair.load(kept).card.parents == [str(pairs[0])]


def test_from_one_pair_to_another(pairs, folder, capsys):
    code, out, err = call(capsys, "sweep", *pairs, "--data", folder)
    assert code == 0, err
    for words in ("minus one", "minus two", "On validation the best point", "Barriers", "ood/far"):
        assert words in out


def test_wrong_words_are_refused_before_anything_is_loaded(pairs, folder, tmp_path, capsys, tiny_llama):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    cases = [
        ((*pairs, tiny_llama, "--data", folder), "name its base first"),
        ((*pairs, pairs[0], "--data", folder), "named twice"),
        ((pairs[0], "--data", folder, "--save", tmp_path / "full"), "not an empty folder"),
        ((pairs[0], "--data", folder, "--html", tmp_path), "is a folder"),
        ((tiny_llama, "--data", folder), "a full checkpoint, not a pair"),
        ((pairs[0], "--data", tmp_path / "nowhere"), "nowhere"),
        ((pairs[0],), "--data"),
    ]
    for words, said in cases:
        code, out, err = call(capsys, "sweep", *words)
        assert code == 2 and said in err and not out, (words, err)
