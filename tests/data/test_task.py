"""Loading a task: sources, overrides, held-out rows, and every refusal."""

import gzip
import json
import subprocess
import sys

import pytest
from tests.data.files import folder, jsonl, rows

from pairtune.data.checks import check
from pairtune.data.holdout import hold_out
from pairtune.data.sources import DEMO
from pairtune.data.split import Split
from pairtune.data.task import Task
from pairtune.errors import DataError, InputError


def test_a_folder_by_convention(tmp_path):
    folder(tmp_path, train=rows(40), ood_far=[{"text": "x", "kind": "odd"}])
    (tmp_path / "dev.csv.gz").write_bytes(gzip.compress(b"text,label\nold night,dog\n"))
    (tmp_path / "test-00000-of-00002.tsv").write_text("text\tlabel\nold cat\tcat\n")
    (tmp_path / "test-00001-of-00002.tsv").write_text("text\tlabel\nold dog\tdog\n")
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    (tmp_path / "README.md").write_text("about")
    task = Task.load(tmp_path)
    assert {name: len(split) for name, split in task.splits.items()} == {
        "train": 40, "validation": 1, "test": 2, "ood/far": 1,
    }  # fmt: skip
    assert list(task.splits) == ["train", "validation", "test", "ood/far"]
    assert (task.kind, task.text, task.label, task.labels) == ("classification", ("text",), "label", ["cat", "dog"])
    assert task.notes == ("files that no split uses: notes.csv",)
    assert task.split("far") is task.splits["ood/far"]
    assert task.splits["test"].where(1).endswith("test-00001-of-00002.tsv:2")
    assert [task.target(row) for row in task.splits["test"]] == [0, 1]
    assert task.target(task.split("far")[0]) is None


def test_no_validation_split_takes_a_tenth_of_train_and_says_so(tmp_path):
    task = Task.load(folder(tmp_path, train=rows(100), test=rows(10, start=100)))
    train, validation = task.splits["train"], task.splits["validation"]
    assert (len(train), len(validation)) == (90, 10)
    assert {row["text"] for row in train} | {row["text"] for row in validation} == {row["text"] for row in rows(100)}
    assert any("no validation split: 10 rows" in note for note in task.notes)
    again = Task.load(folder(tmp_path, train=rows(100)[::-1], test=rows(10, start=100)))
    assert {row["text"] for row in again.splits["validation"]} == {row["text"] for row in validation}
    i = 3
    assert validation.where(i) == f"{tmp_path}/train.jsonl:{rows(100).index(validation[i]) + 1}"


def test_rows_added_later_move_few_others_and_equal_texts_stay_together(tmp_path):
    first = Task.load(folder(tmp_path / "a", train=rows(200) * 2)).splits
    texts = {name: {row["text"] for row in first[name]} for name in ("train", "validation")}
    assert not texts["train"] & texts["validation"]
    later = Task.load(folder(tmp_path / "b", train=rows(220) * 2)).splits["validation"]
    assert len({row["text"] for row in later} & texts["validation"]) >= 0.8 * len(texts["validation"])


@pytest.mark.parametrize("start", range(6))
def test_every_part_keeps_a_row_however_often_one_text_is_repeated(start):
    few = rows(3, start=start)
    parts = hold_out(Split.of([*few, *[few[0]] * 60]), ["text"], 2)
    assert sorted(len({row["text"] for row in part}) for part in parts) == [1, 1, 1]


def test_one_file_is_split_three_ways(tmp_path):
    task = Task.load(jsonl(tmp_path / "all.jsonl", rows(50)))
    assert {name: len(split) for name, split in task.splits.items()} == {"train": 40, "validation": 5, "test": 5}
    assert "one file: split 80 / 10 / 10" in task.notes[0]
    assert task.name == "all"
    tiny = Task.load(jsonl(tmp_path / "tiny.jsonl", rows(3)), kind="classification")
    assert {len(split) for split in tiny.splits.values()} == {1}
    with pytest.raises(DataError, match="2 different texts are too few"):
        Task.load(jsonl(tmp_path / "two.jsonl", rows(2) * 5))


def test_splits_are_laid_over_a_folder(tmp_path):
    folder(tmp_path, train=rows(40), test=rows(8, start=40), other=rows(8, start=50))
    task = Task.load(tmp_path, splits={"test": None, "val": "other.jsonl", "ood": {"a": str(tmp_path / "test.jsonl")}})
    assert {name: len(split) for name, split in task.splits.items()} == {"train": 40, "validation": 8, "ood/a": 8}
    assert task.notes == ()


def test_a_file_with_its_own_splits(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", rows(20))
    jsonl(tmp_path / "b.jsonl", rows(5, start=20))
    task = Task.load(path, splits={"test": "b.jsonl"})
    assert {name: len(split) for name, split in task.splits.items()} == {"train": 18, "validation": 2, "test": 5}


def test_splits_alone_need_no_source(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", rows(20))
    task = Task.load(splits={"test": [path, path]})
    assert list(task.splits) == ["test"]
    assert len(task.split("test")) == 40


def test_a_yaml_file_has_paths_of_its_own(tmp_path):
    folder(tmp_path / "deep" / "set", train=rows(20), held=rows(5, start=20))
    (tmp_path / "deep" / "mine.yaml").write_text(
        "source: set\ntext: text\nlabel: label\nlabels: [dog, cat]\nseparator: ' => '\n"
        "splits:\n  test: held.jsonl\n  ood:\n    same: held.jsonl\n"
    )
    task = Task.load(tmp_path / "deep" / "mine.yaml")
    assert (task.name, task.labels, task.separator, task.guessed["kind"]) == (
        "mine",
        ["dog", "cat"],
        " => ",
        "2 different labels",
    )
    assert list(task.splits) == ["train", "validation", "test", "ood/same"]
    assert Task.load(tmp_path / "deep" / "mine.yaml", name="other", labels=["cat", "dog"]).labels == ["cat", "dog"]
    (tmp_path / "deep" / "bare.yaml").write_text("splits: {train: set/train.jsonl, test: set/held.jsonl}\n")
    assert len(Task.load(tmp_path / "deep" / "bare.yaml").split("test")) == 5


def test_a_mapping_is_the_same_as_arguments(tmp_path):
    folder(tmp_path, train=rows(20), test=rows(5, start=20))
    task = Task.load({"source": str(tmp_path), "label": "label", "name": "mine"}, text="text")
    assert task.name == "mine"
    assert set(task.guessed) == {"kind"}


@pytest.mark.skipif(not (DEMO / "helpdesk" / "train.jsonl").exists(), reason="the help-desk set is not here")
def test_the_demo_loads_by_name():
    task = Task.load("demo:helpdesk")
    assert (task.kind, task.text, task.label) == ("classification", ("text",), "intent")
    assert {"train", "validation", "test", "ood/out_of_scope", "ood/shifted"} <= set(task.splits)


def test_labels_are_ordered_by_number_or_alphabet(tmp_path):
    numbers = jsonl(tmp_path / "n.jsonl", rows(60, labels=[10, 2, 1]))
    assert Task.load(numbers).labels == ["1", "2", "10"]
    words = jsonl(tmp_path / "w.jsonl", rows(60, labels=["b", "a10", "a2"]))
    assert Task.load(words).labels == ["a10", "a2", "b"]
    flags = jsonl(tmp_path / "f.jsonl", rows(60, labels=[True, False]))
    assert Task.load(flags).labels == ["false", "true"]


def test_the_other_kinds(tmp_path):
    many = [{"text": row["text"], "labels": ["x", "y"][: i % 3]} for i, row in enumerate(rows(30))]
    task = Task.load(jsonl(tmp_path / "m.jsonl", many))
    assert (task.kind, task.labels) == ("multilabel", ["x", "y"])
    assert {str(task.target(row)) for row in task.splits["train"]} == {"[]", "[0]", "[0, 1]"}
    (tmp_path / "m.csv").write_text("text,labels\n" + "".join(f"t{i},{'x|y' if i % 2 else ''}\n" for i in range(30)))
    assert Task.load(tmp_path / "m.csv", kind="multilabel", label="labels").labels == ["x", "y"]
    (tmp_path / "r.csv").write_text("text,score\n" + "".join(f"t{i},{i / 7}\n" for i in range(30)))
    task = Task.load(tmp_path / "r.csv")
    assert (task.kind, task.labels, type(task.target(task.splits["train"][0]))) == ("regression", [], float)
    pairs = [{"question": f"what is {i}", "answer": f"it is {i}"} for i in range(30)]
    task = Task.load(jsonl(tmp_path / "q.jsonl", pairs))
    assert (task.kind, task.text, task.label) == ("lm", ("question",), "answer")
    assert task.on("causal") is task
    assert task.on("seq2seq").kind == "seq2seq"
    with pytest.raises(InputError, match="cannot be learnt by an encoder; take a causal language model"):
        task.on("encoder")
    (tmp_path / "plain.txt").write_text("".join(f"line {i}\n" for i in range(30)))
    task = Task.load(tmp_path / "plain.txt")
    assert (task.kind, task.label) == ("lm", None)
    assert task.on("encoder") is task  # hidden tokens
    with pytest.raises(InputError, match="plain text cannot be learnt by an encoder-decoder"):
        task.on("seq2seq")


def test_the_fingerprint_follows_what_training_sees(tmp_path):
    folder(tmp_path, train=rows(40), valid=rows(8, start=40), test=rows(8, start=50))
    first = Task.load(tmp_path).fingerprint
    assert Task.load(tmp_path).fingerprint == first
    assert Task.load(tmp_path, labels=["dog", "cat"]).fingerprint != first
    jsonl(tmp_path / "test.jsonl", rows(9, start=50))
    assert Task.load(tmp_path).fingerprint == first
    jsonl(tmp_path / "train.jsonl", [*rows(39), {"text": "changed", "label": "dog"}])
    assert Task.load(tmp_path).fingerprint != first


def test_describe_shows_guesses_sizes_and_counts(tmp_path):
    folder(tmp_path, train=rows(45, labels=["cat", "dog", "cat"]), test=rows(9, start=50), ood_far=[{"text": "x"}])
    text = Task.load(tmp_path, label="label").describe()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert f"{tmp_path.name}: classification, 2 labels" in lines
    assert any(line.startswith("text text (guessed) text ") for line in lines)
    assert any(line.startswith("label label text 3 2 ") for line in lines)
    assert f"test 9 {tmp_path}/test.jsonl" in lines
    assert any(line.startswith("labels of train: cat 2") for line in lines)
    assert any("text: well-known name" in line for line in lines)
    assert any(line.startswith("note: no validation split") for line in lines)


def test_ood_rows_may_have_no_label_or_another(tmp_path):
    far = [{"text": "a", "label": "cow"}, {"text": "b", "label": "dog"}, {"text": "c"}]
    task = Task.load(folder(tmp_path, train=rows(20), ood_far=far))
    assert task.labels == ["cat", "dog"]
    assert [task.target(row) for row in task.split("far")] == [None, 1, None]
    (tmp_path / "ood" / "cells.csv").write_text("text,label\na,\nb,dog\n")
    task = Task.load(tmp_path)
    assert [task.target(row) for row in task.split("cells")] == [None, 1]
    assert not [one for one in check(task) if "cells" in one.message and "label" in one.message]


def test_loading_imports_neither_torch_nor_transformers(tmp_path):
    folder(tmp_path, train=rows(20), test=rows(4, start=20))
    code = (
        "import sys, json; from pairtune.data import Task, check, report;"
        f"task = Task.load({str(tmp_path)!r}); task.describe(); report(check(task));"
        "print(json.dumps([m for m in ('torch', 'transformers', 'datasets', 'pyarrow', 'pandas') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
