"""`pairtune generate` as people type it: one prompt, a file, a run that was stopped, steering, and wrong inputs."""

import json

import pytest
import torch
from tests.cli.typed import call

from pairtune import Base, Pair, generate
from pairtune.cli import _generated
from pairtune.cli.main import run
from pairtune.generation.vectors import SteeringVectors

PROMPTS = ["the cat sat on", "who is the old man", "a", "yes"]
FEW = ("--max-new-tokens", "6")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(PROMPTS)))
    return path


@pytest.fixture
def vector(tiny_llama, tmp_path):
    base = Base.load(tiny_llama)
    path = tmp_path / "one.safetensors"
    SteeringVectors({2: 5 * torch.randn(16, generator=torch.manual_seed(0))}, {}, base.fingerprint.weights).save(path)
    return path


def test_one_prompt_is_streamed_and_told_as_json(tiny_llama, capsys):
    wanted = generate(Pair(Base.load(tiny_llama)), PROMPTS[0], max_new_tokens=6)[0]
    code, out, err = call(capsys, "generate", tiny_llama, "--prompt", PROMPTS[0], *FEW)
    assert code == 0, err
    assert out == wanted + "\n"
    code, out, _ = call(capsys, "generate", tiny_llama, "--prompt", PROMPTS[0], *FEW, "--json")
    found = json.loads(out)
    assert code == 0 and found["text"] == wanted and found["prompt"] == PROMPTS[0] and found["tokens"] == 6
    code, out, _ = call(capsys, "generate", tiny_llama, "--prompt", PROMPTS[0], *FEW, "--beams", "2")
    assert code == 0 and out.strip()


def test_a_file_is_continued_row_by_row(tiny_llama, prompts, tmp_path, capsys):
    flags = (*FEW, "--temperature", "1", "--seed", "4")
    code, out, err = call(capsys, "generate", tiny_llama, prompts, *flags, "--json")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["line"] for row in rows] == [1, 2, 3, 4] and [row["prompt"] for row in rows] == PROMPTS
    assert call(capsys, "generate", tiny_llama, "--prompt", PROMPTS[1], *flags)[1] == rows[1]["text"] + "\n"
    code, out, err = call(capsys, "generate", tiny_llama, prompts, *flags, "--out", tmp_path / "out.jsonl")
    assert code == 0 and "4 prompts continued" in out
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == rows


def test_a_stopped_run_goes_on_and_another_one_does_not(tiny_llama, prompts, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out.jsonl"
    words = [str(word) for word in ("generate", tiny_llama, prompts, *FEW, "--out", out)]
    monkeypatch.setattr(_generated, "AT_ONCE", 2)
    whole = _generated.Job.records

    def stopped(self, chunk):
        if len(chunk[0]) and "a" in chunk[0]:
            raise KeyboardInterrupt
        return whole(self, chunk)

    with monkeypatch.context() as during:
        during.setattr(_generated.Job, "records", stopped)
        code, _, err = call(capsys, *words)
        assert code == 130 and "2 inputs are done, the same command goes on" in err and not out.exists()
    code, _, err = call(capsys, *words, "--seed", "1")
    assert code == 2 and "decoding.seed: 0 → 1" in err
    code, text, _ = call(capsys, *words)
    assert code == 0 and "(2 of them by the run that was stopped)" in text
    found = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    assert found == generate(Pair(Base.load(tiny_llama)), PROMPTS, max_new_tokens=6)


def test_steering_has_a_strength_and_alpha_a_place(tiny_llama, vector, capsys):
    def text(*more):
        code, out, err = call(capsys, "generate", tiny_llama, "--prompt", PROMPTS[0], *FEW, *more)
        assert code == 0, err
        return out

    plain = text()
    assert text("--steer", vector) != plain
    assert text("--steer", f"{vector}:0") == plain == text("--steer", f"{vector}:2", "--steer", f"{vector}:-2")
    assert text("--steer", vector, "--steer-all") != plain
    found = json.loads(text("--steer", vector, "--clean", "--json"))
    assert found["uncleaned"] == text("--steer", vector).rstrip("\n") and "left_out" in found


def test_wrong_words_are_refused_with_one_sentence(tiny_llama, tiny_bert, prompts, vector, tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    SteeringVectors({1: torch.ones(7)}).save(other)
    (tmp_path / "long.jsonl").write_text('{"text": "a cat"}\n' + json.dumps({"text": "the cat " * 80}) + "\n")
    (tmp_path / "null.jsonl").write_text('{"text": "a cat"}\n{"text": null}\n')
    one = ("--prompt", "a")
    cases = [
        ((tiny_llama,), "either a file of prompts or --prompt"),
        ((tiny_llama, prompts, *one), "either a file of prompts or --prompt"),
        ((tiny_llama, tmp_path / "none.jsonl"), "there is no such file"),
        ((tiny_llama, prompts, "--text", "txt"), "there is no column 'txt'"),
        ((tiny_llama, tmp_path / "long.jsonl"), "long.jsonl, line 2: the prompt has 161 tokens"),
        ((tiny_llama, tmp_path / "null.jsonl"), "line 2: 'text' is not a text but nothing"),
        ((tiny_bert, *one), "is an encoder, which has nothing to write with"),
        ((tiny_llama, *one, "--temperature", "-1"), "temperature: "),
        ((tiny_llama, *one, "--top-p", "0.5"), "give a temperature above 0"),
        ((tiny_llama, *one, "--steer", tmp_path / "no"), "there is no such file of steering vectors"),
        ((tiny_llama, *one, "--steer", f"{vector}:x"), "'x' is not a number"),
        ((tiny_llama, *one, "--steer", other), "have 7 numbers"),
        ((tiny_llama, *one, "--clean"), "give one with --steer"),
        ((tiny_llama, *one, "--steer", f"{vector}:0", "--clean"), "strength 0 has none"),
        ((tiny_llama, *one, "--alpha", "nan"), "expected a finite number"),
        ((tiny_llama, *one, "--out", tmp_path / "x"), "go with a file of prompts"),
        ((tmp_path, *one), "neither a pair"),
    ]
    for words, said in cases:
        code, out, err = call(capsys, "generate", *words)
        assert code == 2 and said in err and not out, (words, err)
    with pytest.raises(SystemExit):
        run(["generate", "--help"])
