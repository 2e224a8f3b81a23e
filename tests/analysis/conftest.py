"""One task, one tuned pair and its comparison, made once for the tests of this room."""

import pytest
from tests.analysis.pets import GENERAL_TEXTS, ROWS, write_splits

import pairtune


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
