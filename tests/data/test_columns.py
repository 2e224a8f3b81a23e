"""Which columns are guessed, and when no guess is made."""

import pytest

from pairtune.data.columns import guess_kind, guess_label, guess_text, profile
from pairtune.data.split import Split

LONG = "a text of more than forty characters, number {} of many in this column"
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def guess(columns: dict, kind=None, count=60):
    """(text, label, kind) for columns given as functions of the row number."""
    split = Split.of([{name: value(i) for name, value in columns.items()} for i in range(count)])
    profiled = profile(split)
    text, _ = guess_text(profiled, None)
    label, _ = guess_label(profiled, text, kind)
    return text, label, kind or guess_kind(profiled, label, "x")[0]


CASES = {
    "names before lengths": (
        {"id": lambda i: LONG.format(i) * 3, "Text": lambda i: f"short {i}", "Intent": lambda i: "ab"[i % 2]},
        (("Text",), "Intent", "classification"),
    ),
    "a pair": (
        {"premise": LONG.format, "hypothesis": LONG.format, "label": lambda i: i % 3},
        (("premise", "hypothesis"), "label", "classification"),
    ),
    "the longest text, the only column of few values": (
        {"number": lambda i: i, "words": LONG.format, "brand": lambda i: f"brand {i}", "mood": lambda i: "xyz"[i % 3]},
        (("words",), "mood", "classification"),
    ),
    "numbers written as text": (
        {"text": LONG.format, "score": lambda i: str(i / 7)},
        (("text",), "score", "regression"),
    ),
    "whole numbers written as decimals are classes": (
        {"text": LONG.format, "label": lambda i: f"{i % 2}.0"},
        (("text",), "label", "classification"),
    ),
    "many whole numbers, all different": (
        {"text": LONG.format, "label": lambda i: i * 3},
        (("text",), "label", "regression"),
    ),
    "truth values": ({"text": LONG.format, "answer": lambda i: i % 2 == 0}, (("text",), "answer", "classification")),
    "few answers": (
        {"question": LONG.format, "answer": lambda i: "yes no".split()[i % 2]},
        (("question",), "answer", "classification"),
    ),
    "answers to write": ({"question": LONG.format, "answer": LONG.format}, (("question",), "answer", "lm")),
    "short answers to write": ({"question": LONG.format, "answer": str}, (("question",), "answer", "lm")),
    "an instruction with input": (
        {"instruction": LONG.format, "input": lambda i: "", "output": LONG.format, "source": lambda i: "ab"[i % 2]},
        (("instruction", "input"), "output", "lm"),
    ),
    "lists": ({"text": LONG.format, "tags": lambda i: ["a", "b"][: i % 3]}, (("text",), "tags", "multilabel")),
    "messages": ({"id": lambda i: i % 2, "messages": lambda i: CHAT}, (("messages",), None, "lm")),
    "text alone": ({"text": LONG.format, "id": lambda i: i}, (("text",), None, "lm")),
    "one bad row in many": (
        {"text": lambda i: 5 if i == 3 else LONG.format(i), "label": lambda i: "ab"[i % 2]},
        (("text",), "label", "classification"),
    ),
    "many classes": (
        {"text": LONG.format, "label": lambda i: f"class {i % 50}"},
        (("text",), "label", "classification"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_guesses(case):
    columns, expected = CASES[case]
    assert guess(columns) == expected


def test_a_kind_that_is_given_steers_the_guess():
    columns = {"text": LONG.format, "summary": LONG.format, "label": lambda i: i % 2, "value": lambda i: i / 7}
    assert guess(columns, "seq2seq")[1] == "summary"
    assert guess(columns, "lm")[1] == "summary"
    assert guess(columns, "classification")[1] == "label"
    del columns["summary"]
    assert guess(columns, "lm")[1] is None
    assert guess({"text": LONG.format, "value": lambda i: i / 7}, "regression")[1] == "value"
    assert guess({"en": LONG.format, "source": LONG.format}, "seq2seq") == (("source",), "en", "seq2seq")


def test_a_sorted_file_is_sampled_evenly():
    split = Split.of([{"text": LONG.format(i), "label": f"class {i // 1000}"} for i in range(10_000)])
    assert next(column.distinct for column in profile(split) if column.name == "label") == 10
