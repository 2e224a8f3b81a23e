"""`pairtune edit` as people type it: edits that are kept and measured, and wrong inputs."""

import json
import re

from tests.cli.typed import call

from pairtune import Pair

ROWS = [
    {"prompt": "the cat is", "target": "red", "rephrase": "a cat is", "locality": "the night is"},
    {"prompt": "the man is", "target": "old", "note": "x"},
    {"prompt": "a man is", "target": "big"},
]


def test_edits_are_made_measured_and_kept(tiny_llama, tmp_path, capsys):
    facts, general, page, out = (tmp_path / name for name in ("facts.jsonl", "general.txt", "page.html", "out"))
    facts.write_text("\n".join(json.dumps(row) for row in ROWS))
    general.write_text("the cat sat on the mat\na good old man\n")
    words = ("edit", facts, "--base", tiny_llama, "--out", out, "--at", "3:mlp", "--lr", "0.02", "--epochs", "2")
    code, text, err = call(capsys, *words, "--general", general, "--html", page, "--json")
    assert code == 0, err
    found = json.loads(text)
    assert found["made"]["at"] == "3:mlp" and found["made"]["updates"] == 6 and len(found["edits"]) == 3
    assert f"conflict: {facts}:3: 'a man is' becomes 'big', and 'old' by {facts}:2" in err
    assert "columns that are not read: note" in err
    assert page.read_text().startswith("<!doctype html>")
    pair = Pair.load(out)
    assert pair.card.metrics["reliability"] == found["reliability"]["share"]
    assert all(name.startswith("model.layers.3.mlp.") for name in pair.delta)
    code, text, err = call(capsys, *words, "--general", general, "--resume")
    assert code == 0 and "is finished already" in err and "What the edits did" in text


def test_the_place_can_be_searched(tiny_llama, tmp_path, capsys):
    facts, general = tmp_path / "facts.jsonl", tmp_path / "general.txt"
    facts.write_text("\n".join(json.dumps(row) for row in ROWS[:2]))
    general.write_text("the cat sat on the mat\n")
    words = ("edit", facts, "--base", tiny_llama, "--out", tmp_path / "out", "--general", general, "--epochs", "1")
    code, text, err = call(capsys, *words, "--lr", "0.02", "--search-location", "--json")
    assert code == 0, err
    scores = dict(re.findall(r"^at (\d:mlp\.\w+): (-?[\d.]+)$", err, re.MULTILINE))
    assert set(scores) == {f"{i}:mlp.{module}_proj" for i in range(4) for module in ("gate", "up", "down")}
    made = json.loads(text)["made"]["at"]
    assert float(scores[made]) == max(map(float, scores.values()))


def test_wrong_words_are_refused_with_one_sentence(tiny_llama, tiny_bert, tmp_path, capsys):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.csv"
    good.write_text(json.dumps(ROWS[0]))
    bad.write_text("prompt,target\nthe cat is,red\nthe dog is,\n")
    more = ("--out", tmp_path / "out")
    cases = [
        ((good, "--base", tiny_llama), "--out"),
        ((tmp_path / "nowhere.jsonl", "--base", tiny_llama, *more), "there is no file"),
        ((bad, "--base", tiny_llama, *more), "line 3: target is empty"),
        ((good, "--base", tiny_bert, *more), "edited into causal language models"),
        ((good, "--base", tiny_llama, *more, "--method", "rome"), "there is no method 'rome'"),
        ((good, "--base", tiny_llama, *more, "--at", "9:mlp"), "has the blocks 0 to 3, not 9"),
        ((good, "--base", tiny_llama, *more, "--lr", "-1"), "greater than 0"),
        ((good, "--base", tiny_llama, *more, "--resume", "--restart"), "exclude one another"),
        ((good, "--base", tiny_llama, *more, "--search-location", "--at", "1"), "--at leaves nothing to choose"),
        ((good, "--base", tiny_llama, *more, "--general", "demo:none"), "there is no demo 'none'"),
    ]
    for words, said in cases:
        code, out, err = call(capsys, "edit", *words)
        assert code == 2 and said in err and not out, (words, err)
    assert not list(tmp_path.glob("out*"))
