"""Run files and flag values mean what people think they mean."""

from __future__ import annotations

import pytest

from pairtune import yaml12
from pairtune.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("3", 3),
        ("-1", -1),
        ("010", 10),
        ("1.", 1.0),
        (".inf", float("inf")),
        ("true", True),
        ("no", "no"),
        ("off", "off"),
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
        ("null", None),
        ("", ""),
        ("Q: {question}", "Q: {question}"),
        ("*x", "*x"),
        ("[q_proj, 1e-3, true]", ["q_proj", 0.001, True]),
        ("{a: no}", {"a": "no"}),
        ("'1'", "1"),
    ],
)
def test_words_of_the_command_line(text: str, value: object):
    got = yaml12.scalar(text)
    assert got == value
    assert type(got) is type(value)


def test_documents_read_numbers_alike():
    assert yaml12.loads("lr: 1e-3\nflag: true\nword: on\n") == {"lr": 0.001, "flag": True, "word": "on"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' appears twice"),
        ("x:\n  a: 1\n  a: 2", "line 3, column 3: the key 'a' appears twice"),
        ("[1", "line 1"),
        ("? [1, 2]\n: 3", "a key must be a plain word"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: \x00", "this is not YAML"),
        ("[" * 5000, "this is not YAML"),
    ],
)
def test_faults_name_their_place(text: str, said: str):
    with pytest.raises(InputError) as caught:
        yaml12.loads(text, where="run.yaml")
    assert str(caught.value).startswith("run.yaml")
    assert said in str(caught.value)


def test_files(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        yaml12.load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        yaml12.load(tmp_path / "latin.yaml")
