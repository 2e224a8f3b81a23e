"""Loading a task: sources, overrides, held-out rows, and every refusal."""

import gzip
import json
import subprocess
import sys

import pytest
from tests.data.files import folder, jsonl, rows

from pairtune.data.sources import DEMO
from pairtune.data.task import Task
from pairtune.errors import ConfigError, DataError, InputError


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
    (tmp_path / "plain.txt").write_text("".join(f"line {i}\n" for i in range(30)))
    task = Task.load(tmp_path / "plain.txt")
    assert (task.kind, task.label) == ("lm", None)
    with pytest.raises(InputError, match="cannot be learnt by an encoder; take a causal language model$"):
        task.on("encoder")
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


REFUSED = {
    "unknown split": ({"splits": {"tset": "test.jsonl"}}, InputError, "found 'tset'; did you mean test"),
    "a split of another name": ({"splits": {"reviews": "test.jsonl"}}, InputError, "is called ood/reviews"),
    "a split twice": ({"splits": {"dev": "test.jsonl", "val": "test.jsonl"}}, InputError, "validation is given twice"),
    "a split that is no file": (
        {"splits": {"test": 3}},
        InputError,
        "test should be a file or a list of files, found 3",
    ),
    "a file that is not there": ({"splits": {"test": "tets.jsonl"}}, InputError, r"did you mean test\.jsonl"),
    "kind": ({"kind": "clasification"}, ConfigError, "kind: .*did you mean classification"),
    "several settings": ({"kind": "x", "labels": "cat"}, ConfigError, "2 problems"),
    "text column": ({"text": "txt"}, DataError, r"no column 'txt' \(columns: text, label\); did you mean text\?"),
    "label column": ({"label": "lable"}, DataError, "no column 'lable' .*did you mean label"),
    "three text columns": ({"text": ["text", "label", "text"]}, InputError, "one or two columns, found 3"),
    "text as label": ({"text": "text", "label": "text"}, InputError, "both as text and as label"),
    "label list": (
        {"labels": ["cat", "dgo"]},
        DataError,
        r"train\.jsonl, line \d+: the label 'dog' is not in .*did you mean dgo",
    ),
    "label twice in the list": ({"labels": ["cat", "cat"]}, InputError, "'cat' occurs twice"),
    "empty label list": ({"labels": []}, InputError, "the list is empty"),
    "numbers that are none": (
        {"kind": "regression", "label": "label"},
        DataError,
        "line 1: .*expected a number as the label, found 'cat'",
    ),
    "a label list for numbers": (
        {"kind": "lm", "label": "label", "labels": ["cat"]},
        InputError,
        "lm task has no label list",
    ),
    "no number to be seen": (
        {"kind": "regression", "splits": {"train": "bare.jsonl"}},
        InputError,
        "no column looks like",
    ),
    "two columns that may be the label": ({"splits": {"train": "two.jsonl"}}, InputError, "It may be first or second"),
    "no text": (
        {"splits": {"train": "numbers.jsonl"}},
        InputError,
        r"no column holds text.*\(columns: a \(integer\)\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_setting_is_refused(tmp_path, case):
    settings, error, message = REFUSED[case]
    folder(tmp_path, train=rows(20), test=rows(5, start=20), bare=[{"text": "a"}], numbers=[{"a": 1}] * 5)
    jsonl(tmp_path / "two.jsonl", [{"text": f"t{i}", "first": i % 2, "second": i % 3} for i in range(20)])
    with pytest.raises(error, match=message):
        Task.load(tmp_path, **settings)


def load_rows(tmp_path, *lines, **settings):
    return Task.load(folder(tmp_path, train=[*rows(20), *lines], test=rows(4, start=20)), **settings)


ROWS = {
    "null text": ({"text": None, "label": "cat"}, {}, "column 'text': expected text, found nothing"),
    "number as text": ({"text": 5, "label": "cat"}, {}, "expected text, found int 5"),
    "no text": ({"label": "cat"}, {}, r"this row has no 'text' \(it has: label\)"),
    "no label": ({"text": "a", "label": None}, {}, "column 'label': there is no label"),
    "blank label": ({"text": "a", "label": " "}, {}, "there is no label"),
    "list as label": (
        {"text": "a", "label": ["cat"]},
        {"kind": "classification"},
        r"found list \(a multilabel task\?\)",
    ),
    "fraction as label": ({"text": "a", "label": 0.5}, {"kind": "classification"}, r"\(a regression task\?\)"),
    "label not in the list": (
        {"text": "a", "label": "cow"},
        {"labels": ["cat", "dog"]},
        "'cow' is not in the label list",
    ),
    "infinite number": ({"text": "a", "label": float("inf")}, {"kind": "regression"}, "expected a number"),
    "null target": ({"text": "a", "label": None}, {"kind": "seq2seq"}, "expected a text to write, found nothing"),
    "comma between labels": (
        {"text": "a", "label": "cat, dog"},
        {"kind": "multilabel", "label": "label"},
        "not by a comma",
    ),
    "label twice": ({"text": "a", "label": ["cat", "cat"]}, {"kind": "multilabel", "label": "label"}, "occurs twice"),
    "broken list": ({"text": "a", "label": "[1,"}, {"kind": "multilabel", "label": "label"}, "column 'label'"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, case):
    row, settings, message = ROWS[case]
    if settings.get("kind") == "regression":
        folder(tmp_path, train=[*({**r, "label": 1.5} for r in rows(20)), row], test=[{"text": "z", "label": 2}])
        with pytest.raises(DataError, match=rf"train\.jsonl, line 21: .*{message}"):
            Task.load(tmp_path, **settings)
        return
    with pytest.raises(DataError, match=rf"train\.jsonl, line 21: .*{message}"):
        load_rows(tmp_path, row, **settings)


def test_sources_that_do_not_exist(tmp_path, monkeypatch):
    folder(tmp_path / "data", train=rows(20))
    with pytest.raises(InputError, match=r"no such file or folder; did you mean data\?"):
        Task.load(tmp_path / "dato")
    with pytest.raises(InputError, match=r"no file .*trian\.jsonl; did you mean train\.jsonl"):
        Task.load(tmp_path / "data" / "trian.jsonl")
    with pytest.raises(InputError, match="there is no demo 'help'"):
        Task.load("demo:help")
    with pytest.raises(InputError, match="no data: give a source"):
        Task.load()
    with pytest.raises(InputError, match="there is no file .*gone.yaml"):
        Task.load(tmp_path / "gone.yaml")
    with pytest.raises(InputError, match="no split 'tst' .*did you mean test"):
        Task.load(folder(tmp_path / "x", train=rows(20), test=rows(2, start=20))).split("tst")


def test_folders_that_cannot_be_a_task(tmp_path):
    folder(tmp_path / "a", books=rows(5), README=[])
    with pytest.raises(
        InputError, match=r"no file is called train, .*found README\.jsonl, books\.jsonl; name the files"
    ):
        Task.load(tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="found no data files at all"):
        Task.load(tmp_path / "b")
    folder(tmp_path / "c", train=rows(5))
    (tmp_path / "c" / "train.csv").write_text("text,label\na,b\n")
    with pytest.raises(InputError, match=r"which file is the split train\? There are train\.csv and train\.jsonl"):
        Task.load(tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(DataError, match="can run any code"):
        Task.load(tmp_path / "d")


def test_a_column_missing_in_one_split_only(tmp_path):
    folder(tmp_path, train=rows(20), test=[{"sentence": "a", "label": "cat"}])
    with pytest.raises(DataError, match=r"test\.jsonl: there is no column 'text' \(columns: sentence, label\)"):
        Task.load(tmp_path)
    folder(tmp_path, test=[{"text": "a"}])
    with pytest.raises(DataError, match=r"test\.jsonl: there is no column 'label'"):
        Task.load(tmp_path)


def test_yaml_faults(tmp_path):
    (tmp_path / "a.yaml").write_text("sorce: x\n")
    with pytest.raises(ConfigError, match="sorce: there is no such setting; did you mean source"):
        Task.load(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("- a\n")
    with pytest.raises(InputError, match="expected a mapping"):
        Task.load(tmp_path / "b.yaml")


def test_ood_rows_may_have_no_label_or_another(tmp_path):
    far = [{"text": "a", "label": "cow"}, {"text": "b", "label": "dog"}, {"text": "c"}]
    task = Task.load(folder(tmp_path, train=rows(20), ood_far=far))
    assert task.labels == ["cat", "dog"]
    assert [task.target(row) for row in task.split("far")] == [None, 1, None]


def test_loading_imports_neither_torch_nor_transformers(tmp_path):
    folder(tmp_path, train=rows(20), test=rows(4, start=20))
    code = (
        "import sys, json; from pairtune.data import Task, check, report;"
        f"task = Task.load({str(tmp_path)!r}); task.describe(); report(check(task));"
        "print(json.dumps([m for m in ('torch', 'transformers', 'datasets', 'pyarrow', 'pandas') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
