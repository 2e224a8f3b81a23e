"""`pairtune score` as people type it: thresholds and marks, explanations, answers, a killed run, wrong input."""

import json
import os

import pytest
from tests.cli.typed import ROWS, call

import pairtune
from pairtune.cli.main import run
from pairtune.pair.complete import verify


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("task")
    for name, times in (("train", 5), ("validation", 10), ("test", 2)):
        lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS * times]
        (place / f"{name}.jsonl").write_text("\n".join(lines))
    (place / "ood").mkdir()
    (place / "ood" / "far.jsonl").write_text('{"text": "please open the account"}\n{"text": "card money"}')
    return place


@pytest.fixture(scope="module")
def tuned(tiny_llama, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs") / "pets"
    training = {"lr": 0.01, "epochs": 6}
    pairtune.tune(
        {"base": str(tiny_llama), "data": str(folder), "tuner": "lora", "training": training, "out": str(out)}
    )
    return out


@pytest.fixture
def pair(tuned, tmp_path):
    import shutil

    return shutil.copytree(tuned, tmp_path / "pair")


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "the cat sat on the mat"}\n{"text": "please open the account"}\n{"text": "yes"}\n')
    return path


def rows(out):
    return [json.loads(line) for line in out.splitlines()]


def test_a_threshold_is_calibrated_kept_and_marks(pair, folder, texts, capsys):
    code, out, err = call(capsys, "score", pair, "--fit", folder, "--rate", "0.1", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["threshold"]["detector"] == "log-ratio:sum"
    assert found["threshold"]["low"] < found["threshold"]["expected"] <= 0.1 < found["threshold"]["high"]
    assert set(found["flagged"]) == {"test", "ood/far"}
    verify(pair)
    code, out, _ = call(capsys, "score", pair, texts, "--mark", "--json")
    assert code == 0
    for row in rows(out):
        assert row["out"] == (row["log-ratio:sum"] > found["threshold"]["value"])
    assert [row["out"] for row in rows(out)][:2] == [False, True]
    code, out, _ = call(capsys, "score", pair, texts)
    assert [line.split()[1] for line in out.splitlines()][:2] == ["in", "out"]
    # Another detector is scored without marks, and not marked by a threshold that is none of it.
    code, out, _ = call(capsys, "score", pair, texts, "--detector", "likelihood", "--json")
    assert "out" not in rows(out)[0]
    code, _, err = call(capsys, "score", pair, texts, "--detector", "likelihood", "--mark")
    assert code == 2
    assert "threshold is one of log-ratio:sum" in err


def test_a_detector_that_learns_is_calibrated_with_its_settings(pair, folder, texts, capsys):
    flags = ("--detector", "knn", "--detector.knn.k", "3")
    code, out, err = call(capsys, "score", pair, "--fit", folder, *flags)
    assert code == 0, err
    assert "of ID inputs will be flagged, asked 5.00%" in out
    code, out, err = call(capsys, "score", pair, texts, "--json")
    assert code == 0, err
    assert set(rows(out)[0]) == {"line", "text", "tokens", "knn", "out"}
    code, again, _ = call(capsys, "score", pair, texts, "--json", *flags)
    assert again == out
    code, _, err = call(capsys, "score", pair, texts, "--detector", "knn", "--detector.knn.k", "4")
    assert code == 2
    assert "knn must learn from ID data first" in err


def test_a_column_that_is_not_the_pairs_own_is_told_once(pair, tmp_path, capsys):
    path = tmp_path / "other.csv"
    path.write_text("id,words\n1,the cat sat\n2,a mat\n")
    code, out, err = call(capsys, "score", pair, path, "--json")
    assert code == 0, err
    assert [row["text"] for row in rows(out)] == ["the cat sat", "a mat"]
    assert err.count("other.csv: texts are read from column 'words' (the pair was tuned on text); to say") == 1
    code, _, err = call(capsys, "score", pair, path, "--text", "words", "--json")
    assert (code, "texts are read" in err) == (0, False)


def test_tokens_that_carried_a_score(pair, texts, capsys):
    code, out, err = call(capsys, "score", pair, texts, "--explain", "--json")
    assert code == 0, err
    for row in rows(out):
        tokens = row["explained"]["tokens"]
        assert sum(token["contribution"] for token in tokens) == pytest.approx(row["log-ratio:sum"], abs=1e-4)
        assert [row["text"][token["start"] : token["end"]] for token in tokens] == [one["token"] for one in tokens]
    code, out, _ = call(capsys, "score", pair, texts, "--explain")
    assert code == 0
    assert "'account'" in out
    code, _, err = call(capsys, "score", pair, texts, "--explain", "--detector", "energy")
    assert code == 2
    assert "energy is no sum over tokens" in err


def test_answers_are_read_or_written(pair, tmp_path, capsys):
    path = tmp_path / "questions.csv"
    path.write_text("q,a\nthe cat sat on the mat,dog\nthe cat sat on the mat,\n")
    flags = ("--text", "q", "--detector", "log-ratio:answer-given-question", "--detector", "log-ratio:both:token")
    code, out, err = call(capsys, "score", pair, path, *flags, "--answer", "a", "--json")
    assert code == 0, err
    assert rows(out)[0]["answer"] == "dog"
    assert rows(out)[1]["answer"] == "cat", "an empty field is no answer, so that the variant writes one"
    code, out, _ = call(capsys, "score", pair, path, *flags, "--json")
    assert code == 0
    assert rows(out)[0]["answer"] == "cat", "what the variant writes by itself"


def test_a_killed_run_goes_on_to_the_same_bytes_and_drift_is_refused(pair, tmp_path, capsys, monkeypatch):
    from pairtune.cli import _scored
    from pairtune.ood import batching, files, scoring

    for module in (batching, files, scoring):
        monkeypatch.setattr(module, "AT_ONCE", 8)
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(json.dumps({"text": "the cat sat on a mat " * (i % 5)}) for i in range(30)))
    call(capsys, "score", pair, path, "--out", tmp_path / "whole.jsonl")
    target = tmp_path / "scores.jsonl"
    child = os.fork()
    if child == 0:
        done = []
        plain = _scored.Records.of

        def dying(self, given):
            for record in plain(self, given):
                done.append(record)
                if len(done) == 21:
                    os.kill(os.getpid(), 9)
                yield record

        _scored.Records.of = dying
        run(["score", str(pair), str(path), "--out", str(target)])
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == 9
    assert not target.exists()
    code, _, err = call(capsys, "score", pair, path, "--out", target, "--detector", "length")
    assert code == 2
    assert "detectors.log-ratio:sum:" in err
    assert "--restart" in err
    kept = path.read_text()
    path.write_text(kept.replace("mat", "map"))
    code, _, err = call(capsys, "score", pair, path, "--out", target)
    assert code == 2
    assert "inputs: " in err
    path.write_text(kept)
    code, out, _ = call(capsys, "score", pair, path, "--out", target)
    assert code == 0
    assert "30 inputs scored" in out
    assert "16 of them by the run that was stopped" in out
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(rows(target.read_text())) == 30


def test_wrong_input_is_answered_in_one_sentence(pair, folder, texts, tmp_path, capsys):
    empty, nulls, plain = tmp_path / "empty.jsonl", tmp_path / "nulls.jsonl", tmp_path / "plain"
    empty.write_text("")
    nulls.write_text('{"text": "a cat"}\n{"text": null}\n')
    plain.mkdir()
    for name in ("train", "validation"):
        (plain / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": t, "label": n}) for t, n in ROWS))
    for words, part in (
        ((pair,), "give either a file of texts, --data TASK or --fit TASK"),
        ((pair, texts, "--fit", folder), "give either"),
        ((pair, tmp_path / "no.jsonl"), "there is no such file"),
        ((pair, empty), "there are no rows"),
        ((pair, nulls), "line 2: 'text' is not a text but nothing (null)"),
        ((pair, texts, "--text", "txt"), "did you mean text?"),
        ((pair, texts, "--answer", "text"), "no detector here reads one"),
        ((pair, texts, "--detector", "log-ration"), "did you mean log-ratio"),
        ((pair, texts, "--detector", "log-ratio:tokn"), "did you mean token?"),
        ((pair, texts, "--detector", "knn", "--detector.knn.q", "3"), "knn has no such setting"),
        ((pair, texts, "--detector", "msp", "--detector.knn.k", "3"), "add --detector knn"),
        ((pair, texts, "--detector", "vim"), "vim needs"),
        ((pair, texts, "--detector", "variant-ratio"), "other: field required"),
        ((pair, texts, "--mark"), "no threshold yet"),
        ((pair, texts, "--restart"), "--restart go with --out FILE"),
        ((pair, texts, "--rate", "0.1"), "--rate and --choose go with --fit TASK"),
        ((pair, "--fit", folder, "--explain"), "go with a file of texts"),
        ((pair, "--fit", folder, "--rate", "2"), "between 0 and 1"),
        ((pair, "--fit", folder, "--rate", "0.001"), "needs at least 999 held-out ID inputs, found 40"),
        ((pair, "--fit", folder, "--choose"), "at least 4 classes, found 2"),
        ((pair, "--fit", folder, "--detector", "knn", "--detector", "energy"), "calibrates one detector"),
        ((pair, "--data", plain), "there is no OOD split"),
        ((tmp_path / "nowhere", texts), "no such folder"),
    ):
        code, _, err = call(capsys, "score", *words)
        assert code == 2, (words, err)
        assert part in err, (words, err)
        assert "Traceback" not in err


def test_a_score_that_is_not_a_number_stops_with_one_sentence(tiny_llama, texts, tmp_path, capsys):
    """A variant whose weights are finite and whose outputs overflow."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.model.layers[3].mlp.down_proj.weight.data.fill_(3e38)
    model.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "broken")
    code, _, err = call(capsys, "score", tmp_path / "broken", texts, "--base", tiny_llama)
    assert code == 1
    assert "NaN or infinite" in err
    assert "Traceback" not in err
