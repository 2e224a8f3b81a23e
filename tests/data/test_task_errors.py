"""Every source, setting and row that cannot be a task, refused with what is wrong and where."""

import pytest
from tests.data.files import folder, jsonl, rows

from pairtune.data.task import Task
from pairtune.errors import ConfigError, DataError, InputError

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
