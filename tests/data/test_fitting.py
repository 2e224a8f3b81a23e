"""Rows whose text to write does not fit are left out, named, in training and in evaluation alike."""

import logging

import pytest
from tests.data.files import jsonl
from transformers import AutoTokenizer

from pairtune import tune
from pairtune.analysis.evaluate import evaluate
from pairtune.data import Encoder, Split, Task
from pairtune.data.fitting import fitting
from pairtune.errors import DataError

LONG = "the cat sat on a mat " * 9
ROWS = [{"text": "the cat", "target": "sat on"}, {"text": "a mat", "target": LONG}, {"text": LONG, "target": "mat"}]


@pytest.fixture
def llama(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


def task_of(rows, **more):
    return Task("rows", "lm", ("text",), "target", [], {"train": Split.of(rows, "rows.jsonl")}, **more)


def test_only_the_text_to_write_decides(llama, caplog):
    task = task_of(ROWS)
    with caplog.at_level(logging.WARNING, "pairtune"):
        found = fitting(Encoder(task, llama, "causal", 24), task, ["train"])
    assert list(found.split("train")) == [ROWS[0], ROWS[2]]
    assert found.split("train").where(1) == "rows.jsonl:3"
    (line,) = caplog.messages
    assert line.startswith("1 of 3 rows of train are left out: the text to write takes")
    assert line.endswith("(rows.jsonl:2)")
    assert fitting(Encoder(task, llama, "causal", 96), task, ["train"]) is task


def test_a_split_without_any_row_that_fits_is_an_error(llama):
    task = task_of([ROWS[1]])
    with pytest.raises(DataError, match=r"rows\.jsonl, line 1: none of the 1 rows of train can be learnt: the text to"):
        fitting(Encoder(task, llama, "causal", 24), task, ["train"])


def test_another_fault_of_a_row_is_still_an_error(llama):
    llama.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    good = {"messages": [{"role": "user", "content": "the"}, {"role": "assistant", "content": "cat"}]}
    alone = {"messages": [{"role": "user", "content": "the cat"}]}
    task = Task("chat", "lm", ("messages",), None, [], {"train": Split.of([good, alone], "chat.jsonl")})
    with pytest.raises(DataError, match=r"chat\.jsonl, line 2: .*no assistant turn"):
        fitting(Encoder(task, llama, "causal", 24), task, ["train"])


def test_tuning_and_evaluation_leave_out_the_same_rows(tiny_llama, tmp_path, caplog):
    for name in ("train", "validation", "test"):
        jsonl(tmp_path / "data" / f"{name}.jsonl", [*ROWS[::2] * 4, {"text": "a mat", "target": LONG * 9}])
    with caplog.at_level(logging.WARNING, "pairtune"):
        pair = tune(
            {
                "base": str(tiny_llama),
                "data": {"source": str(tmp_path / "data"), "kind": "lm", "text": "text", "label": "target"},
                "tuner": "full",
                "out": str(tmp_path / "out"),
                "training": {"max_steps": 2, "batch_size": 2, "lr": 0.01},
            }
        )
        found = evaluate(pair, Task.load(tmp_path / "data", kind="lm", text="text", label="target"))
    assert found.items == {"test": 8}
    said = [line.split(" are left out")[0] for line in caplog.messages if "left out" in line]
    assert said == [f"1 of 9 rows of {name}" for name in ("train", "validation", "test")]
