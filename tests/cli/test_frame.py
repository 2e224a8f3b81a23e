"""Whatever a verb raises becomes one message and an exit code; results and chatter never mix."""

from __future__ import annotations

import errno
import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pairtune.cli import frame
from pairtune.errors import ConfigError, DataError, NonFiniteError


def raising(error: BaseException):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("the label is empty", "train.csv", 7), 2, "error: train.csv, line 7: the label is empty\n"),
        (ConfigError(["lr: too large", "epochs: not a number"]), 2, "2 problems:\n  - lr: too large\n  - epochs"),
        (NonFiniteError("the loss became NaN at step 3"), 1, "error: the loss became NaN at step 3"),
        (KeyboardInterrupt("kept checkpoint-40 in runs/a"), 130, "stopped: kept checkpoint-40 in runs/a\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.csv"), 2, "error: a.csv: No such file\n"),
        (OSError(errno.ENOSPC, "No space left on device", "d.safetensors"), 1, "the disk is full (d.safetensors)"),
        (MemoryError(), 1, "out of memory"),
        (ZeroDivisionError("by zero"), 1, "ZeroDivisionError: by zero (test_frame.py, line"),
    ],
)
def test_an_error_is_one_message_without_a_traceback(capsys, monkeypatch, error, code, said):
    monkeypatch.delenv("PAIRTUNE_TRACEBACK", raising=False)
    assert frame.guarded(raising(error)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_a_fault_of_ours_shows_its_trace_when_asked(capsys, monkeypatch):
    monkeypatch.setenv("PAIRTUNE_TRACEBACK", "1")
    assert frame.guarded(raising(KeyError("x"))) == 1
    assert "Traceback" in capsys.readouterr().err


def test_secrets_stay_out_of_messages_and_logs(capsys, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", "a-very-secret-word")
    frame.guarded(raising(DataError("401 for a-very-secret-word and hf_abcdefghijklmnopqrstu")))
    frame.speak()
    handler = next(h for h in logging.getLogger("pairtune").handlers if isinstance(h.formatter, frame._Redacting))
    line = handler.format(logging.LogRecord("pairtune", logging.INFO, "", 0, "url?t=%s", ("a-very-secret-word",), None))
    err = capsys.readouterr().err
    assert "secret-word" not in err + line
    assert "hf_abc" not in err
    assert "<HF_TOKEN>" in err
    assert "<HF_TOKEN>" in line


@dataclass
class Report:
    path: Path
    names: frozenset[str]
    value: float


def test_json_is_strict_and_knows_our_values(capsys):
    report = Report(Path("a/b"), frozenset({"y", "x"}), float("nan"))
    frame.emit({"r": report, "n": np.float32(0.5), "a": np.arange(3), 1: (True, None)}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "r": {"path": "a/b", "names": ["x", "y"], "value": None},
        "n": 0.5,
        "a": [0, 1, 2],
        "1": [True, None],
    }


def test_what_libraries_print_does_not_break_json(capsys):
    with frame.results_only():
        print("loading...")
        frame.emit({"ok": 1}, as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"ok": 1}
    assert err == "loading...\n"


def test_columns_are_aligned_and_wrapped(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    text = frame.columns([("a", 1, "word " * 12), ("long", 22, "")], head=("name", "n", "text"), indent="  ")
    lines = text.splitlines()
    assert lines[0] == "  name  n   text"
    assert lines[1].startswith("  a     1   word word")
    assert lines[2].startswith("            word")
    assert lines[-1] == "  long  22"
    assert all(len(line) <= 50 for line in lines)
    assert frame.columns([]) == ""


def test_a_reader_that_leaves_early_is_no_error():
    code = (
        "import sys; from pairtune.cli import frame\n"
        "def work():\n    for _ in range(100000): frame.emit(None, False, text='x' * 100)\n"
        "sys.exit(frame.guarded(work))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 1
