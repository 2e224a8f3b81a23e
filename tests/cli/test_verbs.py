"""The reading verbs as people type them, on a pair that `tune` made: eval, score, doctor, export, reproduce."""

import json

import pytest
from tests.cli.typed import ROWS, call

import pairtune


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("task")
    (place / "ood").mkdir()
    for name, times in (("train", 5), ("validation", 1), ("test", 2)):
        lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS * times]
        (place / f"{name}.jsonl").write_text("\n".join(lines))
    far = ["please open the account", "who is the man", "card money", "thanks for the screen"]
    (place / "ood" / "far.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in far))
    return place


@pytest.fixture(scope="module")
def pair(tiny_llama, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs") / "pets"
    training = {"lr": 0.01, "epochs": 10}
    pairtune.tune(
        {"base": str(tiny_llama), "data": str(folder), "tuner": "lora", "training": training, "out": str(out)}
    )
    return out


def test_eval_prints_both_sides_and_json(pair, folder, capsys):
    code, out, err = call(capsys, "eval", pair, "--data", folder)
    assert code == 0, err
    for part in ("accuracy", "base", "variant − base", "far"):
        assert part in out
    code, out, _ = call(capsys, "eval", pair, "--data", folder, "--json")
    found = json.loads(out)
    assert found["metrics"]["test"][str(pair)]["accuracy"] == 1.0
    assert set(found["differences"]["test"][str(pair)]["accuracy"]) >= {"mean", "low", "high", "fixed", "broken"}


def test_score_separates_a_task_and_streams_a_file(pair, folder, tmp_path, capsys):
    code, out, err = call(capsys, "score", pair, "--data", folder, "--json")
    assert code == 0, err
    assert json.loads(out)["ood/far"]["log-ratio:sum"]["auroc"][0] > 0.9
    texts = tmp_path / "texts.csv"
    texts.write_text('id,body\n1,"the cat sat"\n2,"please open\nthe account"\n3,yes\n')
    code, out, err = call(capsys, "score", pair, texts, "--json")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["line"] for row in rows] == [2, 3, 5]
    assert rows[0]["log-ratio:sum"] < rows[1]["log-ratio:sum"]
    target = tmp_path / "scores.jsonl"
    code, out, _ = call(capsys, "score", pair, texts, "--out", target)
    assert code == 0
    assert [json.loads(line) for line in target.read_text().splitlines()] == rows


def test_score_says_what_is_wrong(pair, folder, tmp_path, capsys):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    for words, part in (
        ((pair,), "give either"),
        ((pair, tmp_path / "no.jsonl"), "no such file"),
        ((pair, empty), "no rows"),
        ((pair, folder / "test.jsonl", "--text", "txt"), "did you mean text?"),
        ((pair, folder / "test.jsonl", "--detector", "lenght"), "length"),
        ((tmp_path / "nowhere", folder / "test.jsonl"), "no such folder"),
    ):
        code, _, err = call(capsys, "score", *words)
        assert code == 2, err
        assert part in err
        assert "Traceback" not in err


def test_a_stopped_score_leaves_no_half_written_file(pair, tmp_path, capsys):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "the cat"}\n{"text": 5}\n')
    target = tmp_path / "scores.jsonl"
    code, _, err = call(capsys, "score", pair, texts, "--out", target)
    assert code == 2
    assert "line 2" in err
    assert not target.exists()


def test_doctor_and_export(pair, tmp_path, capsys):
    code, out, err = call(capsys, "doctor", "--pair", pair)
    assert code == 0, err
    assert "BROKEN" not in out
    assert out.count("holds") >= 6
    for kind in ("merged", "peft"):
        code, out, err = call(capsys, "export", pair, "--to", kind, "--out", tmp_path / kind, "--json")
        assert code == 0, err
    code, out, err = call(capsys, "export", pair, "--dtype", "bfloat16", "--out", tmp_path / "half", "--json")
    assert (code, json.loads(out)["dtype"]) == (0, "bfloat16"), err
    code, _, err = call(capsys, "export", pair, "--to", "peft", "--dtype", "bfloat16", "--out", tmp_path / "other")
    assert code == 2 and "an adapter keeps its own" in err
    code, _, err = call(capsys, "rebase", pair, "--onto", "zoo:tiny-lm", "--dtype", "float32", "--out", tmp_path / "on")
    assert code == 2 and "--to merged" in err
    code, _, err = call(capsys, "export", pair, "--out", tmp_path / "merged")
    assert code == 2
    assert "not an empty folder" in err


def test_reproductions_are_listed_and_misspelt_ones_answered(capsys):
    code, out, _ = call(capsys, "reproduce")
    assert code == 0
    assert "levi" in out
    code, _, err = call(capsys, "reproduce", "lvei")
    assert code == 2
    assert "did you mean levi?" in err
