"""One task, one tuned pair and its comparison, made once for the tests of this room."""

import json

import pytest

import pairtune

HOSTILE = "<script>alert('cat')</script> & the cat sat"
ROWS = [
    ("the cat sat on the mat", "cat"),
    ("a cat is in the house", "cat"),
    (HOSTILE, "cat"),
    ("the dog ran by the river", "dog"),
    ("a dog is under a tree", "dog"),
]
GENERAL_TEXTS = ["the old man sat by the river", "please open the account", "who is the woman with the book ?"]


def write_splits(place, splits):
    for name, rows in splits.items():
        file = place / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(json.dumps(row) for row in rows))
    return place


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    rows = [{"text": text, "label": label} for text, label in ROWS]
    far = [{"text": "please open the account", "label": "bird"}]
    splits = {"train": rows * 5, "validation": rows, "test": rows * 2, "ood/new": rows[1:4], "ood/far": far}
    return write_splits(tmp_path_factory.mktemp("pets"), splits)


@pytest.fixture(scope="session")
def task(folder):
    return pairtune.Task.load(folder)


@pytest.fixture(scope="session")
def pair(tiny_llama, folder):
    training = {"lr": 0.01, "epochs": 10}
    return pairtune.tune({"base": str(tiny_llama), "data": str(folder), "tuner": "full", "training": training})


@pytest.fixture(scope="session")
def found(pair, task):
    return pairtune.diff(pair, task, general=GENERAL_TEXTS)
