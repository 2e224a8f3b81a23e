"""`pairtune merge --search` as people type it: report, recipe, going on, several tasks, and wrong inputs."""

import json

import pytest
import yaml
from tests.cli.typed import ROWS, call

import pairtune


def task(place, rows):
    for name, times in (("train", 3), ("validation", 2), ("test", 2)):
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows * times]
        place.mkdir(exist_ok=True)
        (place / f"{name}.jsonl").write_text("\n".join(lines))
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return task(tmp_path_factory.mktemp("pets"), ROWS)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return task(tmp_path_factory.mktemp("turned"), [(text, "dog" if label == "cat" else "cat") for text, label in ROWS])


@pytest.fixture(scope="module")
def pairs(tiny_llama, folder, other, tmp_path_factory):
    place = tmp_path_factory.mktemp("pairs")
    for name, data, tuner in (("one", folder, "lora"), ("two", other, "full")):
        training = {"lr": 0.01, "epochs": 8}
        config = {"base": str(tiny_llama), "data": str(data), "tuner": tuner, "training": training}
        pairtune.tune({**config, "out": str(place / name)})
    return place / "one", place / "two"


def words(pairs, *tasks):
    return [
        "merge", "--search", *(word for one in pairs for word in ("--model", one)),
        *(word for one in tasks for word in ("--data", one)),
    ]  # fmt: skip


def test_a_search_writes_a_recipe_that_makes_the_model_that_it_scored(pairs, folder, tiny_llama, tmp_path, capsys):
    line = [*words(pairs, folder), "--trials", 9, "--out", tmp_path / "found", "--html", tmp_path / "page.html"]
    code, out, err = call(capsys, *line, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["schema"] == "pairtune.search/1" and len(found["trials"]) == 9
    assert found["pool"] == ["base", "one", "two"] and found["metric"] == "accuracy"
    names = [one["name"] for one in found["trials"] if one["initial"]]
    assert names[:4] == ["only base", "only one", "only two", "uniform soup"]
    assert set(found["test"][folder.name]) == {"the merge", *names}
    best = found["trials"][found["best"]]["values"][folder.name]
    assert best == max(one["values"][folder.name] for one in found["trials"])
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")

    recipe = yaml.safe_load((tmp_path / "found" / "recipe.yaml").read_text())
    assert [layer for entry in recipe["layers"] for layer in entry["layers"]][-1] == "rest"
    code, out, err = call(capsys, "merge", tmp_path / "found" / "recipe.yaml", "--out", tmp_path / "merged", "--json")
    assert code == 0, err
    assert json.loads(out)["by_layer"]
    merged = pairtune.Pair.from_checkpoints(str(tiny_llama), str(tmp_path / "merged"))
    again = pairtune.evaluate(merged, pairtune.Task.load(folder), ["validation", "test"])
    assert again.metrics["validation"]["variant"]["accuracy"] == best
    assert again.metrics["test"]["variant"]["accuracy"] == found["test"][folder.name]["the merge"]

    lines = (tmp_path / "found" / "search.jsonl").read_text()
    code, out, err = call(capsys, *line)
    assert code == 0, err
    assert (tmp_path / "found" / "search.jsonl").read_text() == lines
    for said in ("The merge beside the pool", "uniform soup", "What every layer is made of", "recipe.yaml"):
        assert said in out
    code, _, err = call(capsys, *line, "--seed", 1)
    assert code == 2 and "another search (it differs in seed)" in err


def test_two_tasks_and_trials_at_the_same_time(pairs, folder, other, tmp_path, capsys):
    line = [*words(pairs, folder, other), "--trials", 8, "--jobs", 2, "--select", "worst", "--metric", "nll"]
    code, out, err = call(capsys, *line, "--out", tmp_path / "found")
    assert code == 0, err
    assert "no other beats in all tasks" in out
    found = json.loads((tmp_path / "found" / "search.json").read_text())
    assert found["tasks"] == [folder.name, other.name] and len(found["front"]) >= 1
    worst = [max(one["values"].values()) for one in found["trials"]]
    assert found["best"] == worst.index(min(worst))


def test_wrong_words_are_refused(pairs, folder, tmp_path, capsys):
    good = words(pairs, folder)
    out = ("--out", tmp_path / "x")
    cases = [
        (good, "--out FOLDER"),
        (["merge", "--search", "--model", pairs[0], *out], "--search needs"),
        ([*good, *out, "--method", "ties"], "--method: has no meaning with --search"),
        ([*good, *out, "--trials", 3], "3 trials are not enough"),
        ([*good, *out, "--trials", 0], "--trials: expected 1 or more"),
        ([*good, *out, "--sampler", "grid"], "forest, tpe, random"),
        ([*good, *out, "--metric", "dice"], "not measured by 'dice'"),
        ([*words((f"{pairs[0]}:0.5", pairs[1]), folder), *out], "the search chooses the weights"),
        (["merge", "--model", pairs[0], *out, "--trials", 9], "--trials: belongs to --search"),
    ]
    for line, said in cases:
        code, found, err = call(capsys, *line)
        assert code == 2 and said in err and not found, (line, err)


def test_new_heads_are_merged_and_the_base_without_one_is_not_in_the_pool(tiny_bert, folder, tmp_path, capsys):
    for seed, name in enumerate(("one", "two")):
        config = {"base": str(tiny_bert), "data": str(folder), "tuner": "full", "training": {"lr": 0.01, "epochs": 4}}
        pairtune.tune({**config, "seed": seed, "out": str(tmp_path / name)})
    line = [*words((tmp_path / "one", tmp_path / "two"), folder), "--trials", 7, "--out", tmp_path / "found", "--json"]
    code, out, err = call(capsys, *line)
    assert code == 0, err
    found = json.loads(out)
    assert found["pool"] == ["one", "two"]
    kept = pairtune.evaluate(pairtune.Pair.load(tmp_path / "two"), pairtune.Task.load(folder), ["test"])
    assert found["test"][folder.name]["only two"] == kept.metrics["test"]["variant"]["accuracy"]
