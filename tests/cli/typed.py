"""What the tests of verbs share: four rows of a task, and a command line as people type it."""

import pytest

from pairtune.cli.main import run

ROWS = [
    ("the cat sat on the mat", "cat"),
    ("a cat is in the house", "cat"),
    ("the dog ran", "dog"),
    ("a dog sat", "dog"),
]


def call(capsys, *words):
    """(exit code, stdout, stderr) of a command line."""
    with pytest.raises(SystemExit) as left:
        run([str(word) for word in words])
    streams = capsys.readouterr()
    return left.value.code, streams.out, streams.err
