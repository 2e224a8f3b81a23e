"""`steer` as a whole, and `pairtune steer` as people type it: from claims to a steered text, and wrong inputs."""

import json

import pytest
import torch
from tests.cli.typed import call
from tests.editing.claims import LABELS, as_task, disagreed, rows
from tests.ood.pairs import changed

import pairtune
from pairtune import Base, Pair, Task
from pairtune.data.split import Split
from pairtune.editing.reflex.anchor import probabilities
from pairtune.editing.reflex.reading import Reading
from pairtune.editing.reflex.records import write_records
from pairtune.editing.reflex.run import steer
from pairtune.errors import InputError, MissingView
from pairtune.generation.vectors import SteeringVectors


@pytest.fixture(scope="module")
def pair(tiny_llama):
    return changed(Base.load(tiny_llama), scale=0.15)


@pytest.fixture(scope="module")
def task(pair):
    return disagreed(pair)


def test_the_whole_is_told_and_kept(pair, task, tmp_path):
    report = steer(
        pair, task, tmp_path / "out", shots=0, blocks=[1, 2], alphas=(1.0, 5.0), general=str(_text(tmp_path))
    )
    assert set(report.arms) == {"base", "variant", "iv", "kv", "caa", "iti", "random"}
    assert set(report.arms["iv"].scores) == {"validation", "test"}
    assert report.chosen == max(("iv", "kv"), key=lambda name: report.arms[name].choice.gain)
    assert all(len(found) == 8 for found in report.candidates.values())
    for said in (
        "Verdicts on 160 training rows",
        "gained, gives IV",
        "IV, ",
        "Steering, chosen on validation",
        "Chosen:",
    ):
        assert said in str(report)
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored["quadrants"] == report.quadrants and stored["schema"] == "pairtune.steer/1"
    choice = report.arms[report.chosen].choice
    chosen = SteeringVectors.load(tmp_path / "out" / "chosen.safetensors")
    every = SteeringVectors.load(tmp_path / "out" / f"{report.chosen}.safetensors")
    chosen.check(pair.base)
    assert list(every.directions) == [1, 2] and list(chosen.directions) == [choice.block]
    torch.testing.assert_close(chosen.directions[choice.block], choice.alpha * every.directions[choice.block])
    reading, split = Reading(pair, task), task.split("test")
    after = probabilities(reading, reading.rows(split), chosen)
    targets = reading.targets(split)
    assert report.arms[report.chosen].scores["test"].accuracy == float((after.argmax(1) == targets).mean())


def _text(tmp_path):
    path = tmp_path / "general.txt"
    path.write_text("the cat sat on the mat\na good old man\n")
    return path


def test_the_verb_from_claims_to_a_steered_text(tiny_llama, task, tmp_path, capsys):
    claims, tuned = tmp_path / "claims", tmp_path / "pair"
    claims.mkdir()
    for name, split in task.splits.items():
        lines = [json.dumps({"claim": row["text"], "verdict": row["label"], "why": "good man"}) for row in split]
        (claims / f"{name}.jsonl").write_text("\n".join(lines))
    made = tmp_path / "records"
    words = ("steer", tiny_llama, claims, "--text", "claim", "--label-column", "verdict", "--records", made)
    code, out, err = call(capsys, *words, "--explanation-column", "why")
    assert code == 0 and "--data.text prompt --data.label completion" in out, err
    row = json.loads((made / "train.jsonl").read_text().splitlines()[0])
    assert row["prompt"].startswith("You are a fact-checker.") and row["completion"] == f"{row['verdict']}\ngood man"
    training = {"lr": 0.02, "max_steps": 12, "batch_size": 16, "max_length": 128}
    data = {"source": str(made), "kind": "lm", "text": "prompt", "label": "completion"}
    pairtune.tune({"base": str(tiny_llama), "data": data, "tuner": "full", "training": training, "out": str(tuned)})
    words = ("steer", tuned, made, "--label-column", "verdict", "--out", tmp_path / "vec", "--shots", "0")
    code, out, err = call(
        capsys, *words, "--blocks", "2", "--direction.c", "0.01", "--general", _text(tmp_path), "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["rows"]["train"] == 160 and set(found["arms"]) > {"base", "variant", "caa"}
    name = found["chosen"] or "caa"
    file = tmp_path / "vec" / f"{'chosen' if found['chosen'] else name}.safetensors"
    code, out, err = call(
        capsys, "generate", tuned, "--prompt", row["prompt"], "--steer", file, "--max-new-tokens", "3"
    )
    assert code == 0, err


def test_records_for_a_chat_model_are_conversations(task, tmp_path):
    row = task.split("test")[0]
    rows = [{**row, "proof": "the old book"}, {**row, "label": "who?"}]
    given = as_task({"train": Split.of(rows[:1], "train"), "ood/far": Split.of(rows, "far")})
    counts = write_records(given, tmp_path / "records", True)
    assert counts == {"train": 1, "ood/far": 1}  # what has no verdict of the task cannot be learnt
    found = json.loads((tmp_path / "records" / "train.jsonl").read_text())
    question, answer = found["messages"]
    assert question == {"role": "user", "content": found["prompt"]} and answer["content"] == row["label"]
    assert found["prompt"].splitlines()[1] == f"Claim: {row['text']}" and found["verdict"] == row["label"]
    given = as_task({"train": Split.of(rows[:1], "train")})
    write_records(given, tmp_path / "more", False, evidence="proof", explanation="proof")
    found = json.loads((tmp_path / "more" / "train.jsonl").read_text())
    assert "Evidence: the old book" in found["prompt"] and found["completion"] == f"{row['label']}\nthe old book"


def test_wrong_input_is_refused_with_one_sentence(pair, task, tiny_llama, tiny_bert, tmp_path, capsys):
    with pytest.raises(MissingView, match="is a base; base and variant are compared"):
        steer(Pair(pair.base), task)
    with pytest.raises(InputError, match="has the blocks 0 to 3, not 7"):
        steer(pair, task, blocks=[7])
    with pytest.raises(InputError, match="there is no validation split"):
        steer(pair, as_task({"train": task.split("train")}))
    few = {**task.splits, "train": task.split("train")[:25]}
    with pytest.raises(InputError, match="'label' has 3 different values in 25 training rows"):
        steer(pair, as_task(few))
    with pytest.raises(InputError, match="'yes' is the beginning of 'yes no'"):
        Reading(pair, Task("x", "classification", ("text",), "label", ["yes", "yes no"], task.splits))
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"text": f"{row['text']} {i}", "label": LABELS[i % 2]}) + "\n"
                            for i, row in enumerate(rows(40, 1))))  # fmt: skip
    cases = [
        ((tiny_llama, data), "is a base; base and variant are compared"),
        ((tiny_llama, data, "--blocks", "one"), "expected numbers with commas"),
        ((tiny_llama, data, "--direction", "pca"), "there is no"),
        ((tiny_llama, data, "--direction.d", "1"), "logistic has no such setting"),
        ((tiny_llama, data, "--label-column", "verdict"), "there is no column 'verdict'"),
        ((tiny_llama, data, "--evidence-column", "e"), "go with --records"),
        ((tiny_llama, data, "--records", tmp_path / "r", "--evidence-column", "e"), "there is no column 'e'"),
        ((tmp_path / "nowhere", data), "nowhere"),
    ]
    for words, said in cases:
        code, out, err = call(capsys, "steer", *words)
        assert code == 2 and said in err and not out, (words, err)
    assert not (tmp_path / "r").exists()
