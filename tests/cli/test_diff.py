"""`pairtune diff` as people type it: pairs, two full checkpoints from elsewhere, a page, and wrong inputs."""

import json
import re

import pytest
import torch
from tests.cli.typed import ROWS, call

import pairtune


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("task")
    for name, times in (("train", 3), ("validation", 1), ("test", 2)):
        lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS * times]
        (place / f"{name}.jsonl").write_text("\n".join(lines))
    return place


@pytest.fixture(scope="module")
def general(tmp_path_factory):
    file = tmp_path_factory.mktemp("general") / "lines.txt"
    file.write_text("the old man sat by the river\nplease open the account\n")
    return file


@pytest.fixture(scope="module")
def finetuned(tiny_llama, tmp_path_factory):
    """A full fine-tune by plain transformers: no file of pairtune's is in it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        for text, label in ROWS:
            ids = torch.tensor([tokenizer(f"{text}\n{label}").input_ids])
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    place = tmp_path_factory.mktemp("models") / "finetuned"
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def pair(tiny_llama, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs") / "pets"
    training = {"lr": 0.01, "epochs": 4}
    pairtune.tune(
        {"base": str(tiny_llama), "data": str(folder), "tuner": "lora", "training": training, "out": str(out)}
    )
    return out


def test_two_full_checkpoints_are_compared(tiny_llama, finetuned, folder, general, tmp_path, capsys):
    page = tmp_path / "out.html"
    words = (tiny_llama, finetuned, "--data", folder, "--general", general)
    code, out, err = call(capsys, "diff", *words, "--html", page, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["schema"] == "pairtune.diff/1"
    assert set(found["behaviour"]["metrics"]["test"]) == {"base", "finetuned"}
    assert found["path"]["curves"]["finetuned"]["test"]["values"][0] == pytest.approx(
        found["behaviour"]["metrics"]["test"]["base"]["accuracy"]
    )
    assert "full checkpoint" in found["variants"]["finetuned"]
    assert page.read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]
    assert "of" in err and "general text" in err


def test_a_pair_and_a_checkpoint_stand_side_by_side(tiny_llama, pair, finetuned, general, capsys):
    code, out, err = call(capsys, "diff", tiny_llama, pair, finetuned, "--general", general)
    assert code == 0, err
    for words in ("pets", "finetuned", "effective rank", "What it forgot", "none given"):
        assert words in out


def test_wrong_inputs_are_answered_in_a_sentence(tiny_llama, finetuned, pair, folder, general, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for words, part in (
        ((finetuned,), "name a base and what was tuned from it"),
        ((pair, finetuned), "name its base first"),
        ((pair, pair), "named twice"),
        ((tiny_llama, tiny_llama.parent / "nowhere" / "x" / "y"), "no such folder"),
        ((tmp_path / "empty",), "neither a pair, nor an adapter, nor a model"),
        ((pair, "--html", tmp_path / "no" / "out.html"), "there is no folder"),
        ((pair, "--html", tmp_path), "is a folder"),
        ((pair, "--general", tmp_path / "no.txt"), "there is no file"),
        ((pair, "--data", tmp_path / "no-task"), "no such file or folder"),
        ((pair, "--general", general, "--data", folder, "--label", "lable"), "did you mean label?"),
        ((pair, "--htm", "x"), "did you mean --html?"),
    ):
        code, out, err = call(capsys, "diff", *words)
        assert code == 2, (words, err)
        assert part in err
        assert "Traceback" not in err and not out


def test_equal_checkpoints_have_no_difference(tiny_llama, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    code, _, err = call(capsys, "diff", tiny_llama, copy)
    assert code == 2
    assert "there is no delta between them" in err


def test_a_foreign_heads_outputs_stand_in_its_own_order(tiny_bert, folder, general, tmp_path, capsys):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    names = {0: "dog", 1: "cat"}  # the data, read alone, would give cat, dog
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_bert, num_labels=2, id2label=names, label2id={name: i for i, name in names.items()}
    ).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        for text, label in ROWS:
            target = torch.tensor([0 if label == "dog" else 1])
            model(**tokenizer(text, return_tensors="pt"), labels=target).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        right = [
            names[int(model(**tokenizer(text, return_tensors="pt")).logits.argmax())] == label for text, label in ROWS
        ]
    assert all(right)
    model.save_pretrained(tmp_path / "head")
    tokenizer.save_pretrained(tmp_path / "head")
    code, out, err = call(capsys, "diff", tiny_bert, tmp_path / "head", "--data", folder, "--json")
    assert code == 0, err
    assert json.loads(out)["behaviour"]["metrics"]["test"]["head"]["accuracy"] == 1.0


def test_deep_asks_what_inspect_asks_and_says_what_it_cannot(tiny_llama, pair, folder, general, tmp_path, capsys):
    words = ("diff", pair, "--data", folder, "--general", general, "--deep")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"kind": "memorised", "prompt": "the cat", "answer": "zzz"}) + "\n")
    code, out, err = call(capsys, *words, "--questions", questions, "--html", tmp_path / "deep.html", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["diff"]["variants"] == {"pets": "pets (lora)"}
    assert set(found["parts"]) == {"knowledge", "ntk"}
    assert "no row of train has the 20 tokens of a passage" in found["skipped"]["memorisation"]
    page = (tmp_path / "deep.html").read_text()
    for part in ("Which layers to tune", "New facts", "Weights", "Not asked"):
        assert part in page
    assert len(re.findall(r"<h2[^>]*>What it forgot", page)) == 1, "knowledge measures it as well; it is told once"
    code, out, err = call(capsys, "diff", pair, "--general", general, "--deep")
    assert code == 0, err
    assert "no task is given" in out
    for more, said in (
        (("--questions", questions), "are asked with --deep"),
        (("--deep", "--canaries", questions), "name it with --data"),
        (("--deep", "--questions", tmp_path / "none.jsonl"), "none.jsonl"),
    ):
        code, _, err = call(capsys, "diff", pair, *more)
        assert code == 2
        assert said in err
