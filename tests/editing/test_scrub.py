"""`pairtune scrub` as people type it, on a tiny model: the four runs, the report, going on, and wrong inputs."""

import contextlib
import io
import json

import pytest
from tests.cli.typed import ROWS, call

import pairtune
from pairtune.cli.main import run
from pairtune.constraints.directions import Directions
from pairtune.editing.scrub.halves import write_halves
from pairtune.errors import ConfigError, InputError
from pairtune.pair.residual import stream_of

RUN = ["--training.lr", "0.01", "--training.epochs", "2", "--training.batch_size", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("task")
    for name, times in (("train", 6), ("validation", 1), ("test", 2)):
        lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS * times]
        (place / f"{name}.jsonl").write_text("\n".join(lines))
    (place.parent / "ordinary.txt").write_text("\n".join(f"the {word} is red and blue ." for word in ("tree", "man")))
    return place


@pytest.fixture(scope="module")
def words(tiny_llama, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("scrubbed") / "out"
    texts = folder.parent / "ordinary.txt"
    return ["scrub", "--base", tiny_llama, "--data", folder, "--off-topic", texts, "--out", out, *RUN]


@pytest.fixture(scope="module")
def found(words):
    """What the first call says, as JSON."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as left:
        run([*map(str, words), "--json"])
    assert left.value.code == 0
    return json.loads(out.getvalue())


def test_the_second_delta_does_not_use_what_was_found_and_the_same_call_goes_on(words, found, capsys):
    assert found["schema"] == "pairtune.scrub/1" and found["against"]["items"] == {"test": 8}
    assert found["cost"]["steps"] == {"first": 6, "half 1": 4, "half 2": 4, "second": 6}
    assert all(share < 1e-9 for share in found["residual"]["held"].values())
    assert set(found["sides"]) == {"write", "read"} and "speaks for it" in found["sure"]
    pair = pairtune.Pair.load(found["out"])
    directions = Directions.load(f"{found['out']}.scrub/directions.safetensors", pair.base)
    writers = stream_of(pair.base).writers
    for disk, part in pair.delta.items():
        module = pair.base.names.memory(disk).removesuffix(".weight")
        if module in writers:
            assert (directions.write.T @ part.difference()).norm() < 1e-5 * part.norm()
    code, again, err = call(capsys, *words, "--json")
    assert code == 0 and json.loads(again)["sides"] == found["sides"] and "step 1 of" not in err


def test_the_report_reads_as_sentences_and_a_first_pair_is_taken_as_it_is(words, found, tmp_path, capsys):
    first = f"{found['out']}.scrub/first"
    given = ["scrub", "--first", first, *words[3:7], "--out", tmp_path / "o", "--where", "write", "--k", "2"]
    code, out, err = call(capsys, *given)
    assert code == 0, err
    for said in ("What the first delta writes", "2 directions", "How sure that is", "(not used)", "What it cost"):
        assert said in out
    assert "Optimizer steps: first 0" in out and "second − first on the same rows" in out
    record = pairtune.Pair.load(tmp_path / "o").top.record
    assert record["training"]["lr"] == 0.01 and record["constraints"]["grasp"]["where"] == "write"


def test_a_first_pair_on_another_base_is_refused(words, found, tiny_bert, tmp_path, capsys):
    given = ["scrub", "--first", f"{found['out']}.scrub/first", "--base", tiny_bert, *words[3:7]]
    code, _, err = call(capsys, *given, "--out", tmp_path / "o")
    assert code == 2 and "stands on another base" in err


def test_what_stands_there_of_another_call_is_not_mixed_in(words, found, tmp_path, capsys):
    assert found["where"] == "both"
    code, _, err = call(capsys, *words, "--where", "write")
    assert code == 2 and "where: both → write" in err and "--restart" in err
    (tmp_path / "o").mkdir()
    code, _, err = call(capsys, *words[:8], tmp_path / "o", *RUN)
    assert code == 2 and "was not made by scrub" in err


def test_wrong_words_are_refused_before_anything_is_tuned(words, tmp_path, capsys):
    start = [*words[:7], "--out", tmp_path / "o"]
    cases = [
        (["scrub", *words[1:5]], "out: scrub needs a folder"),
        ([*start, "--k", "many"], "expected a number from 1 to 8, or gap"),
        ([*start, "--k", "9"], "k: expected 1 to 8"),
        ([*start, "--where", "left"], "--where"),
        ([*start, "--tuner", "lora", "--tuner.dora", "true"], "DoRA"),
        ([*start, "--tuner.targets", "[q_proj]"], "changes no weight that writes"),
        ([*start, "--off-topic", tmp_path / "nowhere"], "nowhere"),
        ([*start, "--constraint", "grasp"], "directions"),
        ([*start, "--first", tmp_path], "pair"),
    ]
    for given, said in cases:
        code, _, err = call(capsys, *given)
        assert code == 2 and said in err, (given, err)
    assert not (tmp_path / "o.scrub").exists()


def test_python_refuses_recipes_and_starts(tiny_llama, folder, tmp_path):
    config = {"base": str(tiny_llama), "data": str(folder), "out": str(tmp_path / "o"), "stages": [{"tuner": "lora"}]}
    with pytest.raises(ConfigError, match="stages: scrub repeats a run of one stage"):
        pairtune.scrub(config)


def test_halves_part_the_rows_and_are_the_same_again(folder, tmp_path):
    task = pairtune.Task.load(folder)
    data = write_halves(task, tmp_path, seed=3)
    halves = [pairtune.Task.load(**one) for one in data]
    assert [len(half.split("train")) for half in halves] == [12, 12]
    assert len(halves[0].split("validation")) == 4 and halves[0].labels == task.labels
    texts = sorted(row["text"] for half in halves for row in half.split("train"))
    assert texts == sorted(row["text"] for row in task.split("train"))
    assert write_halves(task, tmp_path, seed=3) == data
    few = task.splits | {"train": task.split("train")[:4]}
    with pytest.raises(InputError, match="4 training rows are too few"):
        write_halves(pairtune.Task(**{**vars(task), "splits": few}), tmp_path / "few", seed=0)
