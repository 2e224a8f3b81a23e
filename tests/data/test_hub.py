"""Hub data sets: the library is called without a network; what it would fetch lies in memory."""

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from pairtune.data.task import Task
from pairtune.errors import InputError

FEATURES = Features({"sentence": Value("string"), "label": ClassLabel(names=["neg", "pos", "odd"])})


def part(labels, start=0):
    return Dataset.from_dict({"sentence": [f"text {start + i}" for i in range(len(labels))], "label": labels}, FEATURES)


@pytest.fixture
def hub(monkeypatch):
    """What `datasets.load_dataset` would give, by what it is asked for."""
    asked = []
    data = DatasetDict(
        train=part([0, 1] * 20 + [-1]),
        val=part([1, 0] * 5, 100),
        test=part([-1] * 10, 200),
        test_mismatched=part([0] * 10, 300),
    )

    def load(path, config=None, revision=None):
        asked.append((path, config, revision))
        return data

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_splits_names_and_withheld_labels(hub):
    task = Task.load("owner/set:mini@v1")
    assert hub == [("owner/set", "mini", "v1")]
    assert {name: len(split) for name, split in task.splits.items()} == {"train": 40, "validation": 10}
    assert (task.name, task.labels, task.labels_given) == ("set", ["neg", "pos", "odd"], True)
    assert task.splits["train"][1] == {"sentence": "text 1", "label": "pos"}
    assert task.splits["validation"].where(2) == "owner/set:mini@v1/val:3"
    assert task.notes == (
        "splits of the data set that are not used: test_mismatched",
        "train: 1 rows without a label are left out",
        "test is left out: its labels are withheld",
    )


def test_splits_by_the_data_sets_own_names(hub):
    task = Task.load({"source": "owner/set", "splits": {"test": None, "ood": {"other": "test_mismatched"}}})
    assert list(task.splits) == ["train", "validation", "ood/other"]
    assert task.target(task.split("other")[0]) == 0
    with pytest.raises(InputError, match="no split 'test_mismatch' .*did you mean test_mismatched"):
        Task.load("owner/set", splits={"test": "test_mismatch"})


def test_lists_of_classes_are_named(monkeypatch):
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=["joy", "fear"]))})
    rows = Dataset.from_dict({"text": [f"t{i}" for i in range(20)], "labels": [[0, 1], []] * 10}, features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kw: DatasetDict(train=rows))
    task = Task.load("owner/emotions")
    assert (task.kind, task.labels) == ("multilabel", ["joy", "fear"])
    assert task.target(next(row for row in task.splits["train"] if row["labels"])) == [0, 1]
    assert len(task.splits["validation"]) == 2


def test_a_data_set_that_is_not_there(monkeypatch):
    with pytest.raises(
        InputError, match="nobody/nothing-at-all: there is no such folder here, and the hub did not give"
    ):
        Task.load("nobody/nothing-at-all")


def test_a_data_set_without_the_usual_splits(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kw: DatasetDict(all=part([0, 1])))
    with pytest.raises(InputError, match="which splits. It has all; name them"):
        Task.load("owner/set")
